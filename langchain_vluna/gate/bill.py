"""What work cost: by root run, by thread, by customer, by block of code."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from langchain_vluna._core.types import CommitLine, Hint, Usage
from langchain_vluna._io import forks

__all__ = ["Bill", "BillKey", "Bills"]

BillKey = tuple[str, str]
"""Kind (`run`, `thread`, `principal`, `scope`) and id."""

_MOST = 2_000
_MOST_HINTS = 100


class Bill:
    """The cost of some runs, live: figures move as runs end and settle.

    Tokens are those of ended runs, whether settled yet or not; the amount is what the gate has charged so far.
    `print` shows it as text; with rich installed, `rich.print` shows a table.
    """

    def __init__(self, lock: forks.Lock) -> None:
        """Bills of a gate share a lock."""
        self._lock = lock
        self._tokens = 0
        self._quantities: defaultdict[str, int] = defaultdict(int)
        self._meters: defaultdict[str, int] = defaultdict(int)
        self._models: defaultdict[str, int] = defaultdict(int)
        self._feature_amounts: defaultdict[str, int] = defaultdict(int)
        self._meter_amounts: defaultdict[str, int] = defaultdict(int)
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
        return self._tokens

    @property
    def by_feature(self) -> Mapping[str, int]:
        """Quantity by feature code: tokens of models, calls or whatever was chosen for tools."""
        return self._copy(self._quantities)

    @property
    def by_meter(self) -> Mapping[str, int]:
        """Quantity by meter code."""
        return self._copy(self._meters)

    @property
    def by_model(self) -> Mapping[str, int]:
        """Tokens by the model that served them, as the provider names it."""
        return self._copy(self._models)

    @property
    def amount_by_feature(self) -> Mapping[str, int]:
        """Charged so far by feature code, in XUSD; adds up to `amount_xusd`."""
        return self._copy(self._feature_amounts)

    @property
    def amount_by_meter(self) -> Mapping[str, int]:
        """Charged so far by meter code, in XUSD, as far as the gate itemizes it."""
        return self._copy(self._meter_amounts)

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
            "amount_by_feature": self.amount_by_feature,
            "amount_by_meter": self.amount_by_meter,
            "hints": [{"type": hint.type, **hint.fields} for hint in self.hints],
        }

    def opened(self, hints: Sequence[Hint] = ()) -> None:
        """Count a run as admitted. Called by the gate, as are the next three."""
        with self._lock:
            self._runs += 1
            self._pending += 1
            self._heard(hints)

    def reopened(self) -> None:
        """Count a run as not settled after all: its end was told after it was given up."""
        with self._lock:
            self._pending += 1

    def used(self, body: Mapping[str, Any], usage: Usage | None) -> None:
        """Add what an ended run used."""
        feature, quantity = body["feature_code"], int(body["quantity_minor"])
        with self._lock:
            self._quantities[feature] += quantity
            for line in body.get("meters") or ({"meter_code": feature, "quantity_minor": quantity},):
                self._meters[line["meter_code"]] += int(line["quantity_minor"])
            if usage is not None:
                self._tokens += usage.total_tokens
                self._models[usage.model or feature] += usage.total_tokens

    def settled(
        self,
        feature_code: str,
        amount_xusd: int,
        *,
        lines: Iterable[CommitLine] = (),
        alarmed: bool = False,
        hints: Sequence[Hint] = (),
    ) -> None:
        """Note what the gate charged for one run."""
        with self._lock:
            self._pending -= 1
            self._amount += amount_xusd
            self._alarmed += alarmed
            if amount_xusd:
                self._feature_amounts[feature_code] += amount_xusd
                for line in lines:
                    self._meter_amounts[line.meter_code] += line.amount_xusd or 0
            self._heard(hints)

    def _heard(self, hints: Sequence[Hint]) -> None:
        if hints:
            self._hints = [*self._hints, *hints][-_MOST_HINTS:]

    def _copy(self, counter: Mapping[str, int]) -> dict[str, int]:
        with self._lock:
            return dict(sorted(counter.items()))

    def __repr__(self) -> str:
        return f"Bill(amount_xusd={self.amount_xusd}, pending={self.pending}, runs={self.runs}, tokens={self.tokens})"

    def __str__(self) -> str:
        lines = [self._headline(), *(f"  {meter}: {quantity}" for meter, quantity in self.by_meter.items())]
        return "\n".join([*lines, *(f"  {note}" for note in self._notes())])

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=self._headline(), caption="; ".join(self._notes()) or None)
        table.add_column("meter")
        table.add_column("quantity", justify="right")
        table.add_column("XUSD", justify="right")
        amounts = self.amount_by_meter
        for meter, quantity in self.by_meter.items():
            table.add_row(meter, f"{quantity:,}", f"{amounts[meter]:,}" if meter in amounts else "")
        return table

    def _headline(self) -> str:
        return f"{self.runs} runs, {self.tokens} tokens, {self.amount_xusd} XUSD"

    def _notes(self) -> list[str]:
        pending = [f"{self.pending} runs not settled yet"] if self.pending else []
        return pending + ([f"{self.alarmed} runs were not charged: see the log"] if self.alarmed else [])


class Bills:
    """The bills of a gate: of those that nobody holds, the most recently used are kept."""

    def __init__(self) -> None:
        self._lock = forks.Lock()
        self._bill_lock = forks.Lock()
        self._recent: OrderedDict[BillKey, Bill] = OrderedDict()
        self._held: WeakValueDictionary[BillKey, Bill] = WeakValueDictionary()

    def get(self, key: BillKey) -> Bill:
        """Return the bill, an empty one where nothing is known."""
        with self._lock:
            bill = self._recent.get(key) or self._held.get(key)
            if bill is None:
                bill = self._held[key] = Bill(self._bill_lock)
            self._recent[key] = bill
            self._recent.move_to_end(key)
            while len(self._recent) > _MOST:
                self._recent.popitem(last=False)
            return bill
