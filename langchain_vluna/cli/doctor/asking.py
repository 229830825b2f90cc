"""Whether the gate accepts us: signature, generation, customer, features and prices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_vluna._core.errors import ConfigurationError, GateDenied, GateRejected, VlunaError
from langchain_vluna._core.types import Call, Hint, Identity, Usage
from langchain_vluna._io.client import Client
from langchain_vluna.cli.doctor.findings import Finding, failed, fine, skipped, warned
from langchain_vluna.naming import MeterMode, meter_quantities

__all__ = ["Question", "ask"]

_GENERATIONS = {
    ("v1", "lease_token"): "tutorial",
    ("v2", "lease_token"): "user",
    ("v2", "lease"): "lease",
    ("v2", None): "user or lease; the first authorize tells",
}
_EVERY_KIND = Usage(4, 4, 1, 1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask the gate about."""

    identity: Identity
    features: Sequence[str]
    meters: MeterMode | None
    authorize: bool
    local: bool
    """Whether prices and grants can be set with this command line."""

    def meters_of(self, feature_code: str) -> list[str]:
        """Return the meters that runs of a feature are charged on."""
        if self.meters is None or feature_code.startswith("tool."):
            return [feature_code]
        return list(meter_quantities(feature_code, _EVERY_KIND, self.meters) or ())


def ask(client: Client, question: Question) -> Iterator[Finding]:
    """Find out what the gate lets this customer do; ends where it does not accept us."""
    identity = question.identity
    feature = question.features[0] if question.features else None
    try:
        client.limits(principal_id=identity.principal_id, user_id=identity.user_id, feature_code=feature)
    except VlunaError as error:
        yield _not_accepted(error, identity)
        return
    yield fine("signature", "accepted")
    yield fine("customer", f"principal {identity.principal_id!r}" + _user(identity))
    if not question.features:
        yield skipped("generation", _generation(client))
        yield skipped("feature", "none named", "name what you use: --feature openai.gpt5 --feature tool.search")
        return
    unpriced: set[str] = set()
    for feature_code in question.features:
        yield _feature(client, question, feature_code, unpriced)
    yield fine("generation", _generation(client))
    yield from _prices(client, question, unpriced)


def _not_accepted(error: VlunaError, identity: Identity) -> Finding:
    if isinstance(error, ConfigurationError):
        return failed("customer", error.message, "name the user as well: --user here, vluna_user_id in programs")
    fix = "mend the setting that the message names"
    if identity.user_id is None and isinstance(error, GateRejected):
        fix += "; a gate that bills users needs a user as well: --user"
    return failed("signature", error.message, fix)


def _user(identity: Identity) -> str:
    return "" if identity.user_id is None else f", user {identity.user_id!r}"


def _generation(client: Client) -> str:
    state = client.state
    if state.signature is None:
        return "all of them: each call is signed as its identity needs"
    return _GENERATIONS.get((state.signature, state.payload), f"{state.signature}, {state.payload}")


def _feature(client: Client, question: Question, feature_code: str, unpriced: set[str]) -> Finding:
    check = f"feature {feature_code}"
    if not question.authorize:
        return skipped(check, "not asked, as --no-authorize says")
    try:
        hints = _admitted(client, question.identity, feature_code)
    except GateDenied as denial:
        return failed(check, denial.message, _remedy(denial, question, feature_code))
    except VlunaError as error:
        return failed(check, error.message, "the message says what to mend")
    unpriced.update(*(_named_meters(hint) for hint in hints if hint.type == "pricing.not_configured"))
    advice = [hint.type for hint in hints if hint.type != "pricing.not_configured"]
    if advice:
        fix = "see what the hint says: balance, quota or rate are nearly used up"
        return warned(check, f"admitted, with {', '.join(advice)}", fix)
    return fine(check, "admitted, and the lease given back")


def _admitted(client: Client, identity: Identity, feature_code: str) -> tuple[Hint, ...]:
    """Ask for leave and give it back; where the gate has dry runs, take no lease at all."""
    who: dict[str, Any] = {"principal_id": identity.principal_id, "user_id": identity.user_id}
    if client.state.payload == "lease" and not client.state.auto:
        return client.preflight(feature_code=feature_code, estimated_quantity=1, **who).hints
    lease = client.authorize(feature_code=feature_code, estimated_quantity=1, **who)
    client.cancel(lease)
    return lease.hints


def _named_meters(hint: Hint) -> list[str]:
    named = hint.fields.get("meters")
    return [meter for meter in named if isinstance(meter, str)] if isinstance(named, list) else []


def _remedy(denial: GateDenied, question: Question, feature_code: str) -> str:
    if not question.local:
        return "the message says what the plan of this customer lacks; change it at the gate"
    commands = {
        "funding": f"langchain-vluna grant {question.identity.principal_id} 10usd",
        "quota": f"raise it: langchain-vluna quota {feature_code} 1000000",
        "rate": f"raise it: langchain-vluna rate {feature_code} 1000",
    }
    return commands.get(denial.reason, "change it with LocalGate, or on the page of langchain-vluna serve")


def _prices(client: Client, question: Question, unpriced: set[str]) -> Iterator[Finding]:
    try:
        known = _priced(client.perform(client.exchange(Call("meters", question.identity))).data)
    except VlunaError:
        known = None
    for feature_code in question.features:
        for meter in question.meters_of(feature_code):
            yield _price(question, feature_code, meter, known, unpriced)


def _price(
    question: Question, feature_code: str, meter: str, known: dict[str, bool] | None, unpriced: set[str]
) -> Finding:
    check = f"price of {meter}"
    if meter in unpriced or (known is not None and not known.get(meter, False)):
        what = "is known, but has no price" if known is not None and meter in known else "is not known to the gate"
        ours = f"langchain-vluna price {feature_code} 1 --meter {meter}"
        return failed(check, f"{what}: runs are recorded and not charged", ours if question.local else _AT_THE_GATE)
    if known is None:
        return skipped(check, "the gate does not list its meters", "run once, and look for alarms in the log")
    return fine(check, "there is one")


_AT_THE_GATE = "give the meter a price at the gate, or change features= and meters= of the handler"


def _priced(data: object) -> dict[str, bool] | None:
    entries = data.get("items") if isinstance(data, dict) else data
    if not isinstance(entries, list):
        return None
    return {
        str(entry["meter_code"]): entry.get("pricing") is not None
        for entry in entries
        if isinstance(entry, dict) and "meter_code" in entry
    }
