"""The books always balance: any order of any verbs, with duplicates, against a model of what must hold."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from langchain_vluna._io.local import LocalGate
from tests.conformance.replay import START
from tests.support.caller import Caller

KEYS = st.sampled_from(["k1", "k2", "k3"])
USERS = st.sampled_from(["u1", "u2"])
QUANTITIES = st.integers(1, 3000)
FEATURES = st.sampled_from(["blocks", "units", "unpriced"])


class Books(RuleBasedStateMachine):
    """Two users of a principal do whatever they like."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.gate = LocalGate(generation="user", clock=lambda: START)
        self.gate.price("blocks", "blocks", 7, per=1000, rounding="floor")
        self.gate.price("units", "units", 3)
        self.gate.quota("units", 5000, 86_400)
        self.budget = self.gate.budget("acme", 4000)
        self.granted = 0
        self.commits: dict[tuple[str, str], str] = {}

    def caller(self, user: str) -> Caller:
        return Caller(self.gate, "user", user=user)

    @rule(xusd=st.integers(0, 5000), user=st.sampled_from(["u1", None]))
    def grant(self, xusd: int, user: str | None) -> None:
        self.gate.grant("acme", xusd, user)
        self.granted += xusd

    @rule(target=leases, user=USERS, feature=FEATURES, budgeted=st.booleans())
    def authorize(self, user: str, feature: str, budgeted: bool) -> Any:
        reply = self.caller(user).authorize(feature, **({"budget_id": self.budget} if budgeted else {}))
        assert reply.status in {200, 402}
        return (reply.data["lease_token"], user, feature) if reply.status == 200 else None

    @rule(lease=leases, quantity=QUANTITIES, key=KEYS)
    def commit(self, lease: Any, quantity: int, key: str) -> None:
        if lease is None:
            return
        handle, user, feature = lease
        reply = self.caller(user).commit(handle, quantity, feature, key=f"{handle}-{key}")
        if reply.status == 200:
            first = self.commits.setdefault((handle, key), reply.data["commit_id"])
            assert first == reply.data["commit_id"]
        else:
            assert 409 == reply.status
            assert (handle, key) in self.commits

    @rule(lease=leases, quantities=st.lists(QUANTITIES, min_size=1, max_size=3), key=KEYS)
    def batch(self, lease: Any, quantities: list[int], key: str) -> None:
        if lease is None:
            return
        handle, user, feature = lease
        caller = self.caller(user)
        items = [
            {**caller.usage(handle, quantity, feature), "idempotency_key": f"{handle}-{key}"} for quantity in quantities
        ]
        for item in caller.batch(items).data["items"]:
            if item["status"] == "committed":
                commit_id = item["commit"]["commit_id"]
                assert self.commits.setdefault((handle, key), commit_id) == commit_id

    @rule(lease=leases)
    def cancel(self, lease: Any) -> None:
        if lease is not None:
            assert 200 == self.caller(lease[1]).cancel(lease[0]).status

    @rule(user=USERS, feature=FEATURES, quantity=QUANTITIES)
    def ingest(self, user: str, feature: str, quantity: int) -> None:
        assert 200 == self.caller(user).ingest(quantity, feature).status

    @rule(seconds=st.sampled_from([1, 40_000, 90_000]))
    def wait(self, seconds: int) -> None:
        self.gate.advance(seconds)

    @invariant()
    def money_is_kept(self) -> None:
        """Granted is available and consumed; consumed and cash are what applied ratings cost."""
        with self.gate._store.reading() as connection:
            granted, consumed, cash = connection.execute(
                "SELECT coalesce(sum(granted), 0), coalesce(sum(consumed), 0), coalesce(sum(cash), 0) FROM accounts"
            ).fetchone()
        applied = [rating for rating in self.gate.ratings() if rating.status == "applied"]
        assert self.granted == granted
        assert 0 <= consumed <= granted
        assert consumed + cash == sum(rating.amount_xusd for rating in applied)
        assert granted - consumed == self.gate.balance("acme", "u1") + self.gate.balance(
            "acme", "u2"
        ) - self.gate.balance("acme")

    @invariant()
    def units_are_kept(self) -> None:
        """Units charged by the block and units waiting are together all that was rated."""
        with self.gate._store.reading() as connection:
            rows = connection.execute("SELECT a.user, r.waiting FROM remainders r JOIN accounts a ON a.id = r.account")
            waiting = dict(rows.fetchall())
        for user in ("u1", "u2"):
            rated = [r for r in self.gate.ratings() if (r.user_id, r.feature_code) == (user, "blocks")]
            charged = sum(rating.amount_xusd for rating in rated) // 7 * 1000
            assert sum(rating.quantity for rating in rated) == charged + waiting.get(user, 0)

    @invariant()
    def each_key_has_one_rating(self) -> None:
        """No key is recorded twice, and every recorded commit is known by its key."""
        keys = [(r.user_id, r.idempotency_key) for r in self.gate.ratings()]
        assert len(set(keys)) == len(keys)
        assert set(self.commits.values()) == {r.commit_id for r in self.gate.ratings() if r.source == "commit"}

    @invariant()
    def commits_are_counted(self) -> None:
        """A closed lease has a commit, a canceled one none that came after the cancel alone closed it."""
        by_state = {lease.lease_id: lease for lease in self.gate.leases()}
        assert all(lease.commits > 0 for lease in by_state.values() if lease.state == "closed")
        assert len(self.commits) == sum(lease.commits for lease in by_state.values())

    @invariant()
    def budgets_and_quotas_are_kept(self) -> None:
        """A quota never shows more than its limit, and a budget what its applied commits cost."""
        for user in ("u1", "u2"):
            assert all(used <= 5000 for used in self.gate.quota_used("units", "acme", user).values())
        (budget,) = self.gate.budgets()
        with self.gate._store.reading() as connection:
            (spent,) = connection.execute(
                "SELECT coalesce(sum(amount), 0) FROM ratings WHERE budget IS NOT NULL AND applied AND scope <> ''"
            ).fetchone()
        assert budget.consumed_xusd == spent


Books.TestCase.settings = settings(max_examples=30, stateful_step_count=25)
TestBooks = Books.TestCase
