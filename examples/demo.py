"""An agent with tools behind the embedded gate, told as it happens. `make demo ASK="..."` runs it.

ASK="What is 17 * 23?" python examples/demo.py
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from _model import chat_model, price_tokens
from _tools import TOOLS, answer
from langchain.agents import create_agent

from langchain_vluna import Gate, GateDenied, LocalGate, VlunaCallbackHandler

CUSTOMER = "customer_123"
GRANT = 20_000
TOOL_PRICE = 50
QUESTION = "How many words are in this question, and what is 17 * 23?"

_COLOURS = {"dim": "2", "bold": "1", "green": "32", "red": "31", "yellow": "33"}


def paint(text: str, colour: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def usd(xusd: int) -> str:
    return f"{xusd / 1_000_000:.6f} USD"


class NarratedGate(LocalGate):
    """The embedded gate, printing each question it is asked and each settlement it takes."""

    def send(self, request: Any) -> Any:
        response = super().send(request)
        self._tell(
            request.target.rsplit("/", 1)[-1], json.loads(request.content or b"{}"), json.loads(response.content)
        )
        return response

    def _tell(self, verb: str, asked: dict[str, Any], told: dict[str, Any]) -> None:
        feature = asked.get("feature_code", "")
        match verb:
            case "authorize":
                estimate = asked.get("estimated_quantity_minor")
                about = f"about {int(estimate):,} tokens" if estimate else "one call"
                said = paint("yes", "green") if told["ok"] else paint(f"no: {told['message']}", "red")
                print(f"  {paint('authorize', 'yellow')}  {feature:<24} {about:<22} {said}")
            case "commits":
                parts = [
                    f"{int(m['quantity_minor']):,} {m['meter_code'].rsplit('.', 1)[-1]}"
                    for m in asked.get("meters") or []
                ]
                used = ", ".join(parts) or f"{asked['quantity_minor']} call"
                print(
                    f"  {paint('commit', 'green')}     {feature:<24} {used:<22} {usd(int(told['data']['amount_xusd']))}"
                )
            case "cancel":
                print(f"  {paint('cancel', 'red')}     the work failed, nothing is charged")


def show_bill(gate: LocalGate) -> None:
    lines: dict[tuple[str, str], int] = {}
    amounts: dict[str, int] = {}
    for rating in gate.ratings(CUSTOMER):
        amounts[rating.feature_code] = amounts.get(rating.feature_code, 0) + rating.amount_xusd
        for meter, quantity in rating.meters.items():
            lines[rating.feature_code, meter] = lines.get((rating.feature_code, meter), 0) + quantity
    print(paint(f"  {'feature':<24} {'meter':<38} {'quantity':>8}", "dim"))
    for (feature, meter), quantity in sorted(lines.items()):
        print(f"  {feature:<24} {meter:<38} {quantity:>8,}")
    for feature, amount in sorted(amounts.items()):
        print(f"  {feature:<72} {usd(amount)}")
    print(paint(f"  {'total':<72} {usd(sum(amounts.values()))}", "bold"))


def main() -> None:
    question = os.environ.get("ASK", "").strip() or QUESTION
    model, feature = chat_model(answer)
    agent = create_agent(model, TOOLS)

    local = NarratedGate()
    price_tokens(local, feature)
    for tool in TOOLS:
        local.price(f"tool.{tool.name}", f"tool.{tool.name}", TOOL_PRICE, unit="call")
    local.grant(CUSTOMER, GRANT)

    # Settled inline, so that each commit is seen where it belongs; by default the relay settles in the background.
    with Gate(local, outbox=":memory:", settle="inline") as gate:
        handler = VlunaCallbackHandler(gate, principal_id=CUSTOMER)
        asked: Any = {"messages": [("human", question)]}

        print(f"\n{paint('You ask', 'bold')}   {question}")
        print(f"{paint('Balance', 'bold')}   {usd(local.balance(CUSTOMER))}\n")
        reply = agent.invoke(asked, config={"callbacks": [handler]})
        print(f"\n{paint('Answer', 'bold')}    {reply['messages'][-1].text}\n")

        print(paint("Bill", "bold"))
        show_bill(local)
        left = local.balance(CUSTOMER)
        print(f"\n{paint('Balance', 'bold')}   {usd(GRANT)} before, {usd(left)} after\n")

        print(f"{CUSTOMER} spends the rest on something else, outside LangChain:\n")
        local.price("report.export", "report.export", 1, unit="row")
        with gate.run(feature_code="report.export", principal_id=CUSTOMER) as run:
            run.record(left)

        print(f"\n{paint('Balance', 'bold')}   {usd(local.balance(CUSTOMER))}. The same question again:\n")
        try:
            agent.invoke(asked, config={"callbacks": [handler]})
        except GateDenied as denied:
            print(f"\n{paint('Denied', 'red')}    ({denied.reason}) {denied}")
            print("          The model was not called.\n")


if __name__ == "__main__":
    main()
