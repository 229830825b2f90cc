"""What work cost: by root run, by thread, by customer."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_vluna._core.types import Hint, Usage

__all__ = ["Bill", "BillKey", "Bills"]

BillKey = tuple[str, str]
"""Kind (`run`, `thread`, `principal`) and id."""

_MOST = 2_000
_MOST_HINTS = 100


class Bill:
    """The cost of some runs, live: figures move as runs end and settle.

    Tokens are those of ended runs, whether settled yet or not; the amount is
    what the gate has charged so far.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: Counter[str] = Counter()
        self._quantities: Counter[str] = Counter()
        self._meters: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._amount = 0
        self._alarmed = 0
        self._pending = 0
        self._runs = 0
        self._hints: list[Hint] = []

    @property
    def amount_xusd(self) -> int:
        """Charged so far, in XUSD; runs still `pending` are not in it."""
        return self._amount

    @property
    def pending(self) -> int:
        """Runs that are not settled yet, those still running included."""
        return self._pending

    @property
    def runs(self) -> int:
        """Runs that were admitted."""
        return self._runs

    @property
    def alarmed(self) -> int:
        """Settled runs for which the gate charged nothing though it should have."""
        return self._alarmed

    @property
    def tokens(self) -> int:
        """Tokens of all model runs, input and output."""
        return sum(self._tokens.values())

    @property
    def by_feature(self) -> Mapping[str, int]:
        """Quantity by feature code: tokens of models, calls or whatever was chosen for tools."""
        with self._lock:
            return dict(self._quantities)

    @property
    def by_meter(self) -> Mapping[str, int]:
        """Quantity by meter code."""
        with self._lock:
            return dict(self._meters)

    @property
    def by_model(self) -> Mapping[str, int]:
        """Tokens by the model that served them, as the provider names it."""
        with self._lock:
            return dict(self._models)

    @property
    def hints(self) -> tuple[Hint, ...]:
        """The gate's hints on these runs, the latest hundred."""
        with self._lock:
            return tuple(self._hints)

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as plain data."""
        return {
            "amount_xusd": self.amount_xusd,
            "pending": self.pending,
            "runs": self.runs,
            "alarmed": self.alarmed,
            "tokens": self.tokens,
            "by_feature": self.by_feature,
            "by_meter": self.by_meter,
            "by_model": self.by_model,
            "hints": [{"type": hint.type, **hint.fields} for hint in self.hints],
        }

    def opened(self) -> None:
        """Count a run as admitted. Called by the gate, as are the next two."""
        with self._lock:
            self._runs += 1
            self._pending += 1

    def used(self, body: Mapping[str, Any], usage: Usage | None) -> None:
        """Add what an ended run used."""
        feature, quantity = body["feature_code"], int(body["quantity_minor"])
        with self._lock:
            self._quantities[feature] += quantity
            for line in body.get("meters") or ({"meter_code": feature, "quantity_minor": quantity},):
                self._meters[line["meter_code"]] += int(line["quantity_minor"])
            if usage is not None:
                self._tokens[feature] += usage.total_tokens
                self._models[usage.model or feature] += usage.total_tokens

    def settled(self, amount_xusd: int, *, alarmed: bool, hints: Iterable[Hint] = ()) -> None:
        """Note what the gate charged for one run."""
        with self._lock:
            self._pending -= 1
            self._amount += amount_xusd
            self._alarmed += alarmed
            self._hints = [*self._hints, *hints][-_MOST_HINTS:]

    def __repr__(self) -> str:
        return f"Bill(amount_xusd={self.amount_xusd}, pending={self.pending}, runs={self.runs}, tokens={self.tokens})"

    def __str__(self) -> str:
        lines = [f"{self.runs} runs, {self.tokens} tokens, {self.amount_xusd} XUSD"]
        lines += [f"  {meter}: {quantity}" for meter, quantity in sorted(self.by_meter.items())]
        if self.pending:
            lines.append(f"  {self.pending} runs not settled yet")
        return "\n".join(lines)


class Bills:
    """The bills of a gate; of each kind the most recently used are kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bills: OrderedDict[BillKey, Bill] = OrderedDict()

    def get(self, key: BillKey) -> Bill:
        """Return the bill, an empty one where nothing is known."""
        with self._lock:
            bill = self._bills.get(key)
            if bill is None:
                bill = self._bills[key] = Bill()
                while len(self._bills) > _MOST:
                    self._bills.popitem(last=False)
            else:
                self._bills.move_to_end(key)
            return bill
