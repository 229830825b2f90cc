"""What is set up, as it was last read, so that not every request reads it again.

It holds as long as the revision that it was read at, which every change of what is set up raises, whoever makes it. A
transaction that changes something itself reads everything anew: what it sees could still be undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

__all__ = ["Memory"]

AnswerT = TypeVar("AnswerT")

_MOST: Final = 1000


class Memory:
    """Belongs to one object at a time: whoever has the transaction."""

    def __init__(self) -> None:
        self._revision: int | None = None
        self._answers: dict[tuple[str, str], Any] = {}

    def begin(self, revision: int) -> None:
        """Start a transaction at this revision."""
        if revision != self._revision or len(self._answers) > _MOST:
            self._answers.clear()
            self._revision = revision

    def forget(self) -> None:
        """Remember nothing before the next transaction."""
        self._revision = None

    def read(self, question: Callable[[str], AnswerT], code: str) -> AnswerT:
        if self._revision is None:
            return question(code)
        key = (question.__name__, code)
        if key not in self._answers:
            self._answers[key] = question(code)
        answer: AnswerT = self._answers[key]
        return answer
