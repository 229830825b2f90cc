"""HTTP/1.1 in bytes, by either library: whole answers however they are cut, and never half of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io.transport.codec import Codec, ProtocolError, RequestError, codec_class

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'6;name=value\r\n{"ok":\r\n5\r\ntrue}\r\n0\r\nX-Checksum: 1\r\n\r\n'
)
HINTED = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + PLAIN
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
POST = HttpRequest("POST", "/a?b=c", {"host": "gate", "x-a": "1"}, b"{}", 1.0)

libraries = pytest.mark.parametrize("fast", [pytest.param(False, id="h11"), pytest.param(True, id="httptools")])


def asked(*, fast: bool) -> Codec:
    """Return a codec that waits for an answer."""
    codec = codec_class(fast=fast)()
    codec.request(POST)
    return codec


def read(codec: Codec, *pieces: bytes) -> HttpResponse:
    """Feed all pieces; the last one, and only it, makes the answer whole."""
    *early, answer = [codec.receive(piece) for piece in pieces]
    assert [None] * len(early) == early
    assert answer is not None
    return answer


@libraries
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
def test_an_answer_is_the_same_however_it_is_cut(
    fast: bool, text: bytes, status: int, content: bytes, data: st.DataObject
):
    """Networks cut where they like, after any byte or not at all; the next answer is read as well."""
    codec = asked(fast=fast)
    for _ in range(2):
        cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1))))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        response = read(codec, *pieces)
        assert (status, content, True) == (response.status, response.content, codec.reusable)
        codec.request(POST)


@libraries
def test_header_names_are_folded_and_repeated_ones_joined(fast: bool):
    """As the rest of the package expects them."""
    answer = read(asked(fast=fast), b"HTTP/1.1 200 OK\r\nX-A: 1 \r\nx-a:\t2\r\nContent-Length: 0\r\n\r\n")
    assert {"x-a": "1, 2", "content-length": "0"} == answer.headers


@libraries
@pytest.mark.parametrize(
    ("text", "reusable"),
    [
        (PLAIN, True),
        (CHUNKED, True),
        (HINTED, True),
        (PLAIN + b"HTTP/1.1 200 OK\r\n", False),
        (PLAIN + PLAIN, False),
        (CHUNKED + b"junk", False),
        (PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (PLAIN.replace(b"Content-Type", b"Connection: Close\r\nContent-Type"), False),
    ],
)
def test_only_a_clean_end_leaves_a_connection_for_the_next_call(fast: bool, text: bytes, reusable: bool):
    """Old versions, goodbyes, and bytes that nobody asked for end it; the answer itself is whole."""
    codec = asked(fast=fast)
    assert 200 == read(codec, text).status
    assert reusable is codec.reusable


@libraries
def test_an_answer_without_length_ends_with_its_connection(fast: bool):
    """Then, and only then, the end of the connection is the end of the answer."""
    codec = asked(fast=fast)
    assert b"{}" == read(codec, b"HTTP/1.1 200 OK\r\n\r\n{}", b"").content
    assert codec.reusable is False


@libraries
@pytest.mark.parametrize("text", [PLAIN, CHUNKED, HINTED])
def test_a_connection_that_ends_early_breaks_the_answer(fast: bool, text: bytes):
    """No cut-off answer is read as a whole one, wherever it is cut."""
    for cut in range(len(text)):
        codec = asked(fast=fast)
        if cut:
            assert codec.receive(text[:cut]) is None
        with pytest.raises(ProtocolError):
            codec.receive(b"")


@libraries
@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    ],
)
def test_what_is_not_http_is_refused(fast: bool, text: bytes):
    """A proxy's greeting, another protocol, or lengths that leave a choice."""
    with pytest.raises(ProtocolError):
        asked(fast=fast).receive(text)


@libraries
def test_nobody_switches_protocols(fast: bool):
    """What was not asked for is no answer, and neither is what follows it."""
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    with pytest.raises(ProtocolError):
        asked(fast=fast).receive(switched + PLAIN)


def test_a_tunnel_begins_right_after_its_answer():
    """Whatever length a proxy claims, the answer to a CONNECT has no body."""
    codec = codec_class(fast=False)()
    codec.request(HttpRequest("CONNECT", "gate:443", {"host": "gate:443"}, b"", 1.0))
    assert 200 == read(codec, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").status


@libraries
def test_a_request_is_written_as_it_was_signed(fast: bool):
    """Line by line, with the length of its body; a GET has none."""
    new = codec_class(fast=fast)
    expected = b"POST /a?b=c HTTP/1.1\r\nhost: gate\r\nx-a: 1\r\ncontent-length: 2\r\n\r\n{}"
    assert expected == new().request(POST)
    assert b"GET / HTTP/1.1\r\nhost: gate\r\n\r\n" == new().request(HttpRequest("GET", "/", {"host": "gate"}, b"", 1.0))


@libraries
@pytest.mark.parametrize("value", ["a\r\nx-b: 2", "a\nb", "a\rb", "ä"])
def test_a_value_cannot_leave_its_line(fast: bool, value: str):
    """What would become a header of its own, or other bytes than were signed, is not sent."""
    with pytest.raises(RequestError):
        codec_class(fast=fast)().request(HttpRequest("POST", "/", {"host": "gate", "x-a": value}, b"", 1.0))


def test_the_quick_library_is_taken_where_it_is_installed():
    """The extra `fast` needs no setting."""
    assert codec_class() is codec_class(fast=True)
    assert codec_class(fast=True) is not codec_class(fast=False)
