"""`doctor`: whether this machine can ask its gate, and whether what it uses would be charged."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Annotated, get_args

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from langchain_vluna._core.config import RetryPolicy
from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.signing import decode_secret
from langchain_vluna._core.types import Identity
from langchain_vluna._io.local import LocalGate
from langchain_vluna.cli.doctor.asking import Question, ask
from langchain_vluna.cli.doctor.findings import Finding, failed, fine, skipped
from langchain_vluna.cli.doctor.reach import reach
from langchain_vluna.cli.doctor.storage import examine_outbox
from langchain_vluna.cli.exits import Exit
from langchain_vluna.cli.opening import Target, opened_target
from langchain_vluna.cli.options import Db, Json, User
from langchain_vluna.cli.output import emit
from langchain_vluna.cli.values import shown
from langchain_vluna.naming import MeterMode, check_feature_code

__all__ = ["doctor"]

_MARKS = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "failed": ("FAIL", "red"), "skipped": ("skip", "dim")}
_TRIES = RetryPolicy(attempts=2)


def doctor(
    *,
    principal_id: Annotated[
        str | None,
        typer.Option("--principal", help="Customer to ask for; without, nobody is.", show_default=False),
    ] = None,
    user_id: User = None,
    features: Annotated[
        list[str] | None, typer.Option("--feature", help="Feature that you use; can be repeated.", show_default=False)
    ] = None,
    meters: Annotated[
        str, typer.Option(help="As the handler's `meters`: input_output, input_output_cached, detailed, or none.")
    ] = "input_output",
    authorize: Annotated[
        bool, typer.Option("--authorize/--no-authorize", help="Ask for a lease of each feature, and give it back.")
    ] = True,
    db: Db = None,
    as_json: Json = False,
) -> None:
    """Check settings, connection, signature, features, prices, outbox."""
    chosen = _meter_mode(meters)
    codes = [check_feature_code(code) for code in features or ()]
    identity = None if principal_id is None else Identity(principal_id, user_id)
    findings: list[Finding] = []
    with ExitStack() as stack:
        try:
            target = stack.enter_context(opened_target(db))
            decode_secret(target.settings.service_key_secret.get_secret_value())
        except ConfigurationError as error:
            findings.append(failed("settings", error.message, "set it, or check an embedded gate: --db FILE"))
        else:
            question = None if identity is None else Question(identity, codes, chosen, authorize, _is_local(target))
            findings += examine(target, question, time.time)  # noqa: TID251 -- the clock that is checked
    emit(findings, lambda: _told(findings), as_json=as_json)
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(Exit.LEFT)


def examine(target: Target, question: Question | None, now: Callable[[], float]) -> Iterator[Finding]:
    """Check one thing after the other; what rests on a failure is not tried."""
    local = isinstance(target.transport, LocalGate)
    yield _settings(target)
    reached = True
    if not local:
        for finding in reach(target.settings.base_url, target.transport, now):
            yield finding
            reached = reached and finding.status != "failed"
    if not reached:
        yield skipped("signature", "the gate cannot be reached")
    elif question is None:
        yield skipped("signature", "nobody named to ask for", "name a customer: --principal customer_123")
    else:
        yield from ask(target.client(retry=_TRIES), question)
    yield examine_outbox(target.outbox, now)


def _settings(target: Target) -> Finding:
    settings = target.settings
    if isinstance(target.transport, LocalGate):
        return fine("settings", f"embedded gate {target.transport.path}")
    wire = os.environ.get("VLUNA_WIRE") or "auto"
    who = f"realm {settings.realm_id}, key id {settings.service_key_id}, secret set"
    return fine("settings", f"{settings.base_url}, {who}, wire {wire}")


def _is_local(target: Target) -> bool:
    return isinstance(target.transport, LocalGate)


def _meter_mode(name: str) -> MeterMode | None:
    if name == "none":
        return None
    if name not in get_args(MeterMode):
        msg = f"--meters {name!r} is not known; use {', '.join(get_args(MeterMode))}, or none"
        raise ConfigurationError(msg)
    return name  # type: ignore[return-value]  # one of the literals, as just seen


def _told(findings: list[Finding]) -> RenderableType:
    lines = []
    for finding in findings:
        mark, colour = _MARKS[finding.status]
        lines.append(Text.assemble((mark, colour), f"  {shown(finding.check)}: {shown(finding.detail)}"))
        if finding.fix is not None:
            lines.append(Text(f"      -> {shown(finding.fix)}"))
    bad = sum(finding.status == "failed" for finding in findings)
    lines.append(Text(f"{bad} of {len(findings)} checks failed" if bad else "all is well"))
    return Group(*lines)
