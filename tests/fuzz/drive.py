"""Sends random requests to the server's application and keeps its own account of what it was told."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_vluna._io.local import LocalGate
from langchain_vluna.server import create_app
from langchain_vluna.server.app import GateApp
from tests.fuzz.books import broken_rules, totals
from tests.fuzz.calls import Call, Fuzzer

BETWEEN_CHECKS = 50_000


@dataclass
class Report:
    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    granted: int = 0
    commits: dict[str, str] = field(default_factory=dict)
    """Amount by commit id, as answered."""


def fuzz(folder: Path, *, requests: int, seed: int, tell: Callable[[Report], None] = lambda _: None) -> Report:
    """Send that many requests; stops at the first problem, which names the request."""
    path = str(folder / "fuzz.db")
    gate = LocalGate(path, clock=lambda: 1_800_000_000.0)
    set_up(gate)
    fuzzer, report = Fuzzer(gate.settings, seed), Report()
    try:
        while report.requests < requests and not report.problems:
            asyncio.run(drive(create_app(gate), fuzzer, report, min(requests - report.requests, BETWEEN_CHECKS)))
            report.problems += books(path, report)
            tell(report)
    finally:
        gate.close()
    return report


async def drive(app: GateApp, fuzzer: Fuzzer, report: Report, requests: int) -> None:
    for _ in range(requests):
        call = fuzzer.next()
        report.requests += 1
        try:
            status, answer = await ask(app, call)
        except Exception as error:  # noqa: BLE001 -- the border of the fuzzer: whatever escapes is what it looks for
            report.problems.append(f"{error!r} from {call}")
        else:
            report.statuses[status] += 1
            note(report, call, status, answer)
            fuzzer.heard(status, answer)
        if report.problems:
            return


def set_up(gate: LocalGate) -> None:
    for meter in ("chat.tokens.input", "chat.tokens.output", "draw"):
        gate.price(meter.partition(".")[0], meter, 3)
    gate.price("blocks", "blocks", 7, per=1000, rounding="floor")
    gate.price("blocks", "prepaid", 11, per=100, residual_mode="prepaid")
    gate.price("free", "free", 0)
    gate.price("openai.gpt-4o", "openai.gpt-4o", 2)


async def ask(app: GateApp, call: Call) -> tuple[int, Mapping[str, Any]]:
    path, _, query = call.target.partition("?")
    scope = {
        "type": "http",
        "method": call.method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in call.headers.items()],
        "client": ("127.0.0.1", 1),
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": call.content}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(content)


def note(report: Report, call: Call, status: int, answer: Mapping[str, Any]) -> None:
    """Write down what an answer claims, and whether it is one that must not be."""
    if status >= 500:  # a server error, whatever was asked
        report.problems.append(f"{status} to {call}")
    elif status == 200 and call.target == "/ui/api/grants":
        report.granted += json.loads(call.content)["xusd"]
    elif status == 200 and call.target == "/ui/api/withdrawals":
        report.granted -= answer["withdrawn_xusd"]
    elif status == 200 and "/gate/" in call.target:
        data = answer["data"]
        items = [item["commit"] for item in data.get("items", ()) if "commit" in item] if isinstance(data, dict) else []
        for commit in [data] if "commit_id" in data else items:
            if report.commits.setdefault(commit["commit_id"], commit["amount_xusd"]) != commit["amount_xusd"]:
                report.problems.append(f"commit {commit['commit_id']} changed its amount at {call}")


def books(path: str, report: Report) -> list[str]:
    """Compare the ledger with its rules, and with what its answers said."""
    found, ledger = broken_rules(path), totals(path)
    if ledger["granted"] != report.granted:
        found.append(f"granted is {ledger['granted']}, and the answers said {report.granted}")
    if ledger["ratings"] != len(report.commits):
        found.append(f"{ledger['ratings']} ratings, and the answers named {len(report.commits)} commits")
    return found
