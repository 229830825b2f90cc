"""The verbs around the work: authorize, preflight, cancel, and the lists of limits and meters.

A verb reads what the rules need, asks them, and writes what they decide. Each call runs in one transaction of
the caller; a `Refusal` rolls it back, so that a refused request leaves its key and its lease free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from langchain_vluna._core.ledger import admission, bodies
from langchain_vluna._core.ledger.answers import balance_data, cancel_data, lease_data
from langchain_vluna._core.ledger.fields import check_creatable, is_uuid
from langchain_vluna._core.ledger.model import (
    DAY_MS,
    DEFAULT_WINDOW_SEC,
    Budget,
    Feature,
    Form,
    HeldLease,
    Meter,
    Quota,
    Rate,
    Refusal,
    Rules,
    iso,
    window_start,
)
from langchain_vluna._io.local.catalogue import DEFAULT_FAMILY, Account
from langchain_vluna._io.local.journal import Witness
from langchain_vluna._io.local.names import new_tail, new_uuid
from langchain_vluna._io.local.tables import NewLease, StoredLease, Tables

__all__ = ["Answer", "Verbs"]

CACHED: Final = "idempotency_conflict"
STORED: Final = "idempotency conflict"
"""The server words a conflict by where it found it: in its cache of 24 hours, or in its database."""

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    data: object
    hints: Sequence[Mapping[str, Any]] = ()


class Verbs:
    """One request's view of the ledger: its transaction, its moment, its account, its way to name things."""

    def __init__(
        self, tables: Tables, witness: Witness, *, account: Account, form: Form, now_ms: int, rules: Rules
    ) -> None:
        self._tables = tables
        self._witness = witness
        self._account = account
        self._form = form
        self._now_ms = now_ms
        self._rules = rules

    def authorize(self, body: Body, key: str, fingerprint: str) -> Answer:
        earlier = self._tables.lease_by_key(key, self._account, any_account=self._rules.server_flaws)
        if earlier is not None and self._is_cached(earlier.lease.created_ms):
            _same(earlier.body, fingerprint, CACHED)
            return self._lease_again(earlier)
        request = bodies.parse_authorize(body, self._form, self._rules)
        feature = self._feature(request.feature_code, request.family)
        meters = self._tables.meters_of(feature.code)
        admission.check_funding(self._account.available, meters)
        if earlier is not None:
            _same(earlier.body, fingerprint, STORED)
            return self._lease_again(earlier)
        quotas, rates, budget, hints = self._check_limits(request, feature, meters)
        for rate in rates:
            self._tables.count(rate, self._account, self._now_ms, rate.used + 1)
        new = self._new_lease(request, feature, quotas, budget)
        self._tables.add_lease(new, self._account, key=key, body=fingerprint, hints=hints)
        self._witness.saw(
            self._tables,
            "authorized",
            feature=feature.code,
            lease=new.lease.lease_id,
            labels=request.labels,
            hints=hints,
            estimate=request.estimate or None,
        )
        return Answer(lease_data(new.lease, self._form), hints)

    def preflight(self, body: Body) -> Answer:
        """Say what authorize would say; nothing is registered, counted or leased."""
        request = bodies.parse_authorize(body, self._form, self._rules)
        known = self._tables.feature(request.feature_code)
        feature = admission.check_feature(
            known, entitled=known is not None and self._tables.entitled(known.code, self._account)
        )
        meters = self._tables.meters_of(feature.code)
        admission.check_funding(self._account.available, meters)
        quotas, _, budget, hints = self._check_limits(request, feature, meters)
        window = _first_window(quotas)
        start = window_start(self._now_ms, window)
        self._witness.saw(
            self._tables,
            "checked",
            feature=feature.code,
            labels=request.labels,
            hints=hints,
            estimate=request.estimate or None,
        )
        data: dict[str, Any] = {"as_of": iso(self._now_ms)}
        if budget is not None:
            data["budget_id"] = budget.budget_id
        data |= {"feature_code": feature.code, "feature_family_code": feature.family}
        return Answer(data | {"window_start": iso(start), "window_end": iso(start + window * 1000)}, hints)

    def cancel(self, body: Body, key: str, fingerprint: str) -> Answer:
        earlier = self._tables.answer(
            "cancel", key, self._account, since_ms=self._now_ms - DAY_MS, any_account=self._rules.server_flaws
        )
        if earlier is not None:
            _same(earlier.body, fingerprint, CACHED)
            self._witness.saw(self._tables, "replayed")
            return Answer(earlier.data)
        lease_id = bodies.parse_cancel(body, self._rules)
        lease = self._lease_of_token(lease_id)
        if lease is None:
            raise Refusal.not_found("lease not found")
        cancelled = lease.state == "active"
        if cancelled:
            self._tables.cancel_lease(lease.lease_id)
        data = cancel_data(cancelled=cancelled, now_ms=self._now_ms)
        self._witness.saw(
            self._tables, "canceled" if cancelled else "too_late", feature=lease.feature_code, lease=lease.lease_id
        )
        self._keep_answer("cancel", key, fingerprint, data)
        return Answer(data)

    def limits(self, feature_code: str | None) -> Answer:
        return Answer([self._limits_of(feature) for feature in self._tables.features(feature_code)])

    def meters(self) -> Answer:
        return Answer(
            [
                {"meter_code": meter.code, "unit": meter.unit, "features": features, "pricing": _pricing(meter)}
                for meter, features in self._tables.all_meters()
            ]
        )

    def balance(self) -> Answer:
        account = self._account
        uncovered = self._tables.uncovered(account)
        data = balance_data(account.account_id, available=account.available, uncovered=uncovered, now_ms=self._now_ms)
        return Answer(data)

    # --- shared with settling

    def _is_cached(self, since_ms: int) -> bool:
        return self._now_ms - since_ms < DAY_MS

    def _lease_again(self, stored: StoredLease) -> Answer:
        self._witness.saw(self._tables, "replayed", feature=stored.lease.feature_code, lease=stored.lease.lease_id)
        return Answer(lease_data(stored.lease, self._form), stored.hints)

    def _keep_answer(self, verb: str, key: str, fingerprint: str, data: object) -> None:
        self._tables.keep_answer(
            verb,
            key,
            self._account,
            body=fingerprint,
            data=data,
            now_ms=self._now_ms,
            since_ms=self._now_ms - DAY_MS,
        )

    def _feature(self, code: str, family: str | None = None) -> Feature:
        """Return the feature, registered on the fly where the gate does that, active and entitled to."""
        feature = self._tables.feature(code)
        if feature is None and self._rules.auto_registry:
            check_creatable("feature_code", code, self._rules)
            if family is not None:
                check_creatable("feature_family_code", family, self._rules)
            self._tables.create_feature(code, family or DEFAULT_FAMILY)
            feature = self._tables.feature(code)
        entitled = (
            feature is None or not feature.entitlement_required or self._tables.entitled(feature.code, self._account)
        )
        return admission.check_feature(feature, entitled=entitled)

    def _lease_of_token(self, lease_id: str) -> HeldLease | None:
        if not is_uuid(lease_id):
            if self._rules.server_flaws:
                raise Refusal.unexpected()
            raise Refusal.invalid("invalid lease token format")
        return self._tables.lease(lease_id, self._account)

    # --- admission

    def _check_limits(
        self, request: bodies.AuthorizeRequest, feature: Feature, meters: Sequence[Meter]
    ) -> tuple[list[Quota], list[Rate], Budget | None, list[dict[str, Any]]]:
        quotas, rates = self._tables.policies(feature.code, self._account, self._now_ms)
        admission.check_quotas(quotas)
        hints = admission.check_rates(rates, self._now_ms)
        budget = None
        if request.budget is not None:
            budget = admission.check_budget(self._tables.budget(request.budget, self._account))
        hints += admission.funding_hints(
            feature, estimate=request.estimate, available=self._account.available, meters=meters, budget=budget
        )
        return quotas, rates, budget, hints

    def _new_lease(
        self, request: bodies.AuthorizeRequest, feature: Feature, quotas: Sequence[Quota], budget: Budget | None
    ) -> NewLease:
        if request.lease is not None and self._tables.chosen_lease(request.lease, self._account) is not None:
            raise Refusal.conflict(f"lease {request.lease!r} exists already; choose another or leave it out")
        lease_id, tail, window = new_uuid(), new_tail(), _first_window(quotas)
        lease = HeldLease(
            lease_id=lease_id,
            handle=request.lease or f"lease.{lease_id}.{tail}",
            feature_code=feature.code,
            family=feature.family,
            state="active",
            created_ms=self._now_ms,
            expires_ms=self._now_ms + self._rules.lease_ttl_ms,
            window_start_ms=window_start(self._now_ms, window),
            window_sec=window,
            budget_id=None if budget is None else budget.budget_id,
        )
        return NewLease(lease, tail, request.lease)

    def _limits_of(self, feature: Feature) -> dict[str, Any]:
        meters = self._tables.meters_of(feature.code)
        quotas, rates = self._tables.policies(feature.code, self._account, self._now_ms)
        unlimited = [] if quotas else [Quota(0, -1, DEFAULT_WINDOW_SEC, 0)]
        return {
            "feature_code": feature.code,
            "feature_family_code": feature.family,
            "unit": meters[0].unit,
            "quotas": [self._window(quota) for quota in (*quotas, *unlimited)],
            "rates": [self._window(rate) for rate in rates],
            "meters": [meter.code for meter in meters],
        }

    def _window(self, policy: Quota | Rate) -> dict[str, str]:
        start = window_start(self._now_ms, policy.window_sec)
        return {
            "subject_scope": "account" if self._account.shared_id is None else "user",
            "window_start": iso(start),
            "window_end": iso(start + policy.window_sec * 1000),
            "limit_minor": str(policy.limit),
            "used_minor": str(policy.used),
        }


def _first_window(quotas: Sequence[Quota]) -> int:
    return quotas[0].window_sec if quotas else DEFAULT_WINDOW_SEC


def _same(stored: str | None, fingerprint: str, message: str) -> None:
    if stored != fingerprint:
        raise Refusal.conflict(message)


def _pricing(meter: Meter) -> dict[str, str] | None:
    price = meter.price
    if price is None:
        return None
    return {
        "unit_price_xusd": str(price.xusd),
        "unit_price_base_xusd": str(price.xusd),
        "unit_price_dynamic_xusd": "0",
        "unit_quantity_minor": str(price.per),
        "rounding": price.rounding,
        "effective_at": iso(price.since_ms),
        "fingerprint": price.fingerprint,
        "unit": meter.unit,
        "unit_cost_xusd": str(price.cost_xusd),
        "cost_unit_quantity_minor": str(price.per),
        "cost_rounding": price.rounding,
    }
