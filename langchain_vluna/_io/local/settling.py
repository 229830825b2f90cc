"""The verbs after the work: commit, batch and ingest.

A key is looked up before anything else, as the server's cache does. Under one lease a key stands for the same
piece of usage whether it came alone or in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from langchain_vluna._core.ledger import bodies, settlement
from langchain_vluna._core.ledger.answers import commit_data
from langchain_vluna._core.ledger.model import DAY_MS, Budget, HeldLease, MeterLine, Quota, Refusal
from langchain_vluna._core.ledger.settlement import MeterPlan, Settlement
from langchain_vluna._io.local.journal import stated
from langchain_vluna._io.local.names import new_uuid
from langchain_vluna._io.local.tables import StoredRating
from langchain_vluna._io.local.verbs import CACHED, STORED, Answer, Body, Verbs

__all__ = ["Settling"]

_SERVER_ERROR: Final = 500
_REFUSED: Final = 422


class Settling(Verbs):
    def commit(self, body: Body, key: str, fingerprint: str) -> Answer:
        earlier = self._tables.ratings_by_key(key, self._account, ingested=False, any_account=self._rules.server_flaws)
        cached = next((r for r in earlier if r.body is not None and self._is_cached(r.created_ms)), None)
        if cached is not None:
            if cached.body != fingerprint:
                raise Refusal.conflict(CACHED)
            return self._replay(cached)
        return self._commit(body, key, fingerprint, earlier)

    def batch(self, body: Body, key: str, fingerprint: str) -> Answer:
        """Settle items one by one; each is refused alone."""
        earlier = self._tables.answer(
            "batch", key, self._account, since_ms=self._now_ms - DAY_MS, any_account=self._rules.server_flaws
        )
        if earlier is not None:
            if earlier.body != fingerprint:
                raise Refusal.conflict(CACHED)
            self._witness.saw(self._tables, "replayed")
            return Answer(earlier.data)
        items = body.get("items")
        results = self._items(items if isinstance(items, list) else [])
        committed = sum(item["status"] == "committed" for item in results)
        data = {"items": results, "committed_count": committed, "failed_count": len(results) - committed}
        self._keep_answer("batch", key, fingerprint, data)
        return Answer(data)

    def ingest(self, body: Body, key: str, fingerprint: str) -> Answer:
        found = self._tables.ratings_by_key(key, self._account, ingested=True, any_account=self._rules.server_flaws)
        if found:
            if found[0].body != fingerprint:
                raise Refusal.conflict(CACHED if self._is_cached(found[0].created_ms) else STORED)
            return self._replay(found[0])
        request = bodies.parse_ingest(body, self._form, self._rules)
        feature = self._feature(request.feature_code)
        plan = self._plan(feature.code, request.meters)
        budget = request.budget
        if self._form == "lease" and budget is not None:
            budget = self._named_budget(budget)
        settled = settlement.settle_ingest(
            request,
            plan=plan,
            remainders=self._tables.remainders(self._account, plan.meters.values()),
            new_id=new_uuid,
        )
        self._register(feature.code, plan)
        self._charge(settled, plan)
        return self._record(settled, request, scope="", key=key, body=fingerprint, budget_id=budget)

    # --- one commit, alone or in a batch

    def _commit(self, body: Body, key: str, fingerprint: str | None, earlier: list[StoredRating]) -> Answer:
        request = bodies.parse_commit(body, self._form, self._rules)
        feature = self._feature(request.feature_code)
        lease = self._lease(request)
        again = next((r for r in earlier if lease is not None and r.scope == lease.lease_id), None)
        if again is not None:
            if not _same_usage(again, request):
                raise Refusal.conflict(STORED)
            return self._replay(again, key=key)
        lease = settlement.check_lease(lease, request, self._now_ms, self._rules)
        plan = self._plan(feature.code, request.meters)
        # The window of the lease counts, not that of now: a run that ends after midnight belongs to the old day.
        quotas, _ = self._tables.policies(feature.code, self._account, lease.created_ms)
        budget = None if lease.budget_id is None else self._tables.budget(lease.budget_id, self._account)
        settled = settlement.settle(
            request,
            feature=feature,
            lease=lease,
            plan=plan,
            remainders=self._tables.remainders(self._account, plan.meters.values()),
            quotas=quotas,
            budget=budget,
            now_ms=self._now_ms,
            rules=self._rules,
            new_id=new_uuid,
        )
        self._register(feature.code, plan)
        self._charge(settled, plan)
        if settled.applied:
            self._consume(settled, request.quantity, lease, quotas, budget)
        self._tables.count_commit(lease.lease_id, close=fingerprint is not None)
        return self._record(
            settled, request, scope=lease.lease_id, key=key, body=fingerprint, budget_id=lease.budget_id
        )

    def _lease(self, request: bodies.CommitRequest) -> HeldLease | None:
        if isinstance(request.lease, tuple):
            return self._lease_of_token(request.lease[0])
        chosen = self._tables.chosen_lease(request.lease, self._account)
        if chosen is not None:
            return chosen
        generated = self._tables.lease(request.lease.removeprefix("lease.").partition(".")[0], self._account)
        return generated if generated is not None and generated.handle == request.lease else None

    def _plan(self, feature_code: str, lines: tuple[MeterLine, ...]) -> MeterPlan:
        known = self._tables.meters(feature_code, dict.fromkeys(line.meter_code for line in lines))
        return settlement.plan_meters(lines, known, self._rules)

    def _register(self, feature_code: str, plan: MeterPlan) -> None:
        for meter in plan.create:
            self._tables.create_meter(meter.code, meter.unit)
            self._tables.attach_meter(feature_code, meter.code)
        for code in plan.attach:
            self._tables.attach_meter(feature_code, code)

    def _charge(self, settled: Settlement, plan: MeterPlan) -> None:
        self._tables.keep_remainders(self._account, plan.meters, settled.remainders)
        if settled.applied:
            self._tables.spend(self._account, settled.amount_xusd)

    def _consume(
        self, settled: Settlement, quantity: int, lease: HeldLease, quotas: list[Quota], budget: Budget | None
    ) -> None:
        for quota in quotas:
            used = min(quota.limit, quota.used + quantity)
            self._tables.count(quota, self._account, lease.created_ms, max(used, quota.used))
        if budget is not None:
            self._tables.consume_budget(budget, settled.amount_xusd)

    def _named_budget(self, name: str) -> str:
        budget = self._tables.budget(name, self._account)
        if budget is None:
            raise Refusal.not_found("budget not found or inactive")
        return budget.budget_id

    # --- batches

    def _items(self, items: list[Any]) -> list[dict[str, Any]]:
        if self._rules.server_flaws and any(not isinstance(_item_key(item), str) for item in items):
            raise Refusal.unexpected()
        results: list[dict[str, Any]] = []
        poisoned = False
        self._tables.mark()
        for index, item in enumerate(items):
            try:
                if poisoned:
                    raise Refusal.unexpected()
                answer = self._item(item if isinstance(item, Mapping) else {})
            except Refusal as refusal:
                results.append({"index": index, **_item_error(refusal)})
                if refusal.status == _SERVER_ERROR and not poisoned:
                    # What earlier items wrote is gone; that they read `committed` all the same is the server's flaw.
                    poisoned = True
                    self._tables.undo_to_mark()
                self._witness.saw_refusal(self._tables, refusal, stated(item, self._rules))
            else:
                results.append({"index": index, "status": "committed", "commit": answer.data})
                # What an item has spent, the next one does not have.
                self._account = self._tables.as_it_is(self._account)
        return results

    def _item(self, item: Body) -> Answer:
        key = _item_key(item)
        if not isinstance(key, str) or not key.strip():
            raise Refusal.invalid("idempotency_key is required for each batch item")
        usage = {name: value for name, value in item.items() if name != "idempotency_key"}
        earlier = self._tables.ratings_by_key(key, self._account, ingested=False)
        with self._tables.undone_when_refused():
            return self._commit(usage, key, None, earlier)

    # --- answers

    def _replay(self, stored: StoredRating, key: str | None = None) -> Answer:
        lease = stored.scope or None
        self._witness.saw(self._tables, "replayed", feature=stored.feature_code, lease=lease, key=key)
        return self._again(stored)

    def _again(self, stored: StoredRating) -> Answer:
        return Answer(self._data(stored.commit_id, stored), stored.hints)

    def _record(
        self,
        settled: Settlement,
        request: bodies.CommitRequest | bodies.IngestRequest,
        *,
        scope: str,
        key: str,
        body: str | None,
        budget_id: str | None,
    ) -> Answer:
        rating = StoredRating(
            commit_id=new_uuid(),
            scope=scope,
            body=body,
            feature_code=request.feature_code,
            quantity=request.quantity,
            amount_xusd=settled.amount_xusd,
            cost_xusd=settled.cost_xusd,
            applied=settled.applied,
            labels=request.labels,
            lines=settled.lines,
            hints=settled.hints,
            budget_id=budget_id,
            created_ms=self._now_ms,
        )
        self._witness.saw(
            self._tables,
            "quarantined" if not rating.applied else "committed" if scope else "ingested",
            feature=rating.feature_code,
            lease=scope or None,
            rating=self._tables.add_rating(rating, self._account, key),
            key=key,
            labels=rating.labels,
        )
        return self._again(rating)

    def _data(self, commit_id: str, rating: StoredRating) -> dict[str, Any]:
        return commit_data(
            commit_id,
            rating.lines,
            feature_code=rating.feature_code,
            amount_xusd=rating.amount_xusd,
            cost_xusd=rating.cost_xusd,
            budget_id=rating.budget_id,
            rated_ms=rating.created_ms,
            form=self._form,
        )


def _item_key(item: object) -> object:
    return item.get("idempotency_key") if isinstance(item, Mapping) else None


def _item_error(refusal: Refusal) -> dict[str, Any]:
    if refusal.status == _SERVER_ERROR:
        return {"status": "failed", "error": {"type": "SERVER.ERROR", "details": refusal.message}}
    status = "invalid" if refusal.status == _REFUSED else "failed"
    return {"status": status, "error": {"type": refusal.code, "details": refusal.message}}


def _same_usage(stored: StoredRating, request: bodies.CommitRequest) -> bool:
    return (
        stored.feature_code == request.feature_code
        and stored.quantity == request.quantity
        and stored.labels == request.labels
        and [(line.meter_code, line.quantity) for line in stored.lines]
        == [(line.meter_code, line.quantity) for line in request.meters]
    )
