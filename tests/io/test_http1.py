"""HTTP/1.1 in bytes: whole answers however they are cut, and never half of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vluna._io.transport.http1 import Answer, ProtocolError, request_bytes

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'6;name=value\r\n{"ok":\r\n5 \r\ntrue}\r\n0\r\nX-Checksum: 1\r\n\r\n'
)
HINTED = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + PLAIN
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


def read(*pieces: bytes, bodiless: bool = False) -> Answer:
    """Feed all pieces; the last one, and only it, makes the answer whole."""
    answer = Answer(bodiless=bodiless)
    assert [False] * (len(pieces) - 1) + [True] == [answer.feed(piece) for piece in pieces]
    return answer


@pytest.mark.parametrize(
    ("text", "status", "content"),
    [
        (PLAIN, 200, b"{}"),
        (CHUNKED, 200, b'{"ok":true}'),
        (CHUNKED.replace(b"X-Checksum: 1\r\n", b""), 200, b'{"ok":true}'),
        (HINTED, 200, b"{}"),
        (EMPTY, 204, b""),
        (b"HTTP/1.1 502 \r\nContent-Length: 0\r\n\r\n", 502, b""),
    ],
)
@given(data=st.data())
def test_an_answer_is_the_same_however_it_is_cut(text: bytes, status: int, content: bytes, data: st.DataObject):
    """Networks cut where they like: after any byte, or not at all."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1))))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    response = read(*pieces).response()
    assert (status, content) == (response.status, response.content)


def test_header_names_are_folded_and_repeated_ones_joined():
    """As the rest of the package expects them."""
    answer = read(b"HTTP/1.1 200 OK\r\nX-A: 1 \r\nx-a:\t2\r\nContent-Length: 0\r\n\r\n")
    assert {"x-a": "1, 2", "content-length": "0"} == answer.headers


@pytest.mark.parametrize(
    ("text", "reusable"),
    [
        (PLAIN, True),
        (CHUNKED, True),
        (PLAIN + b"HTTP/1.1 200 OK\r\n", False),
        (CHUNKED + b"\r\n", False),
        (PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (PLAIN.replace(b"Content-Type", b"Connection: Close\r\nContent-Type"), False),
    ],
)
def test_only_a_clean_end_leaves_a_connection_for_the_next_call(text: bytes, reusable: bool):
    """Old versions, goodbyes, and bytes that nobody asked for end it."""
    assert reusable is read(text).reusable


def test_an_answer_without_length_ends_with_its_connection():
    """Then, and only then, the end of the connection is the end of the answer."""
    answer = Answer()
    assert not answer.feed(b"HTTP/1.1 200 OK\r\n\r\n{}")
    answer.end()
    assert (b"{}", False) == (answer.response().content, answer.reusable)


@pytest.mark.parametrize("text", [PLAIN, CHUNKED, HINTED])
def test_a_connection_that_ends_early_breaks_the_answer(text: bytes):
    """No cut-off answer is read as a whole one, wherever it is cut."""
    for cut in range(len(text)):
        answer = Answer()
        assert not answer.feed(text[:cut])
        with pytest.raises(ProtocolError, match="before the answer was whole"):
            answer.end()


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    ],
)
def test_what_is_not_http_is_refused(text: bytes):
    """A proxy's greeting, another protocol, or lengths that leave a choice."""
    with pytest.raises(ProtocolError):
        Answer().feed(text)


def test_a_tunnel_begins_right_after_its_answer():
    """Whatever length a proxy claims, the answer to a CONNECT has no body."""
    assert read(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", bodiless=True).reusable


def test_a_request_is_written_as_it_was_signed():
    """Line by line, with the length of its body; a GET has none."""
    assert b"POST /a?b=c HTTP/1.1\r\nx-a: 1\r\ncontent-length: 2\r\n\r\n{}" == request_bytes(
        "POST", "/a?b=c", {"x-a": "1"}, b"{}"
    )
    assert b"GET / HTTP/1.1\r\nx-a: 1\r\n\r\n" == request_bytes("GET", "/", {"x-a": "1"}, b"")


@pytest.mark.parametrize("value", ["a\r\nx-b: 2", "a\nb", "a\rb", "ä"])
def test_a_value_cannot_leave_its_line(value: str):
    """What would become a header of its own, or other bytes than were signed, is not sent."""
    with pytest.raises(ProtocolError, match="line break or a character"):
        request_bytes("POST", "/", {"x-a": value}, b"")
