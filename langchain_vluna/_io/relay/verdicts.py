"""What single commits taught about meters, so that a batch's silence can be read.

A line priced 0 in a batch is either free or quarantined, and the batch does not say
which. One single commit per feature and set of zero-priced meters finds out; the
answer is used for a minute, because a price may be set or taken away.
"""

from __future__ import annotations

from collections.abc import Callable

from langchain_vluna._core.types import Commit
from langchain_vluna._io import forks

__all__ = ["Verdicts"]

_VALID = 60.0
_MOST = 10_000

Question = tuple[str, frozenset[str]]


class Verdicts:
    """Remembers, per feature and zero-priced meters, whether such commits are quarantined."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = forks.Lock()
        self._quarantined: dict[Question, tuple[bool, float]] = {}

    def must_ask(self, feature_code: str, commit: Commit) -> bool:
        """Whether the commit has lines priced 0 that nothing recent explains."""
        question = _question(feature_code, commit)
        return question is not None and self._recall(question) is None

    def quarantines(self, feature_code: str, commit: Commit) -> bool:
        """Whether commits with these lines priced 0 are known not to be charged."""
        question = _question(feature_code, commit)
        return question is not None and self._recall(question) is True

    def known_free(self, feature_code: str, commit: Commit) -> bool:
        """Whether these lines are known to cost nothing, rather than not to be charged."""
        question = _question(feature_code, commit)
        return question is not None and self._recall(question) is False

    @staticmethod
    def is_unpriced(commit: Commit) -> bool:
        """Whether some line has the price 0, or none at all."""
        return bool(_unpriced(commit)) or (not commit.lines and not commit.amount_xusd)

    def learn(self, feature_code: str, commit: Commit) -> None:
        """Take in an answer that carries hints."""
        question = _question(feature_code, commit)
        if question is None:
            return
        with self._lock:
            if len(self._quarantined) >= _MOST:
                self._quarantined.clear()
            self._quarantined[question] = (commit.quarantined, self._clock() + _VALID)

    def _recall(self, question: Question) -> bool | None:
        with self._lock:
            verdict, until = self._quarantined.get(question, (None, 0.0))
        return verdict if self._clock() < until else None


def _question(feature_code: str, commit: Commit) -> Question | None:
    unpriced = _unpriced(commit)
    return (feature_code, unpriced) if unpriced else None


def _unpriced(commit: Commit) -> frozenset[str]:
    # An amount of 0 says less: a price per thousand charges it for a few units too, and carries them over.
    return frozenset(
        line.meter_code
        for line in commit.lines
        if not (line.amount_xusd if line.unit_price_xusd is None else line.unit_price_xusd)
    )
