"""An agent with tools behind the embedded gate, told as it happens. `make demo ASK="..."` runs it.

ASK="What is 17 * 23?" python examples/demo.py
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any
from uuid import uuid4

from _model import chat_model, price_tokens
from _tools import TOOLS, answer
from langchain.agents import create_agent

from langchain_vluna import Bill, Gate, GateDenied, LocalGate, VlunaCallbackHandler

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
        told = json.loads(response.content)
        asked = json.loads(request.content or b"{}")
        tell(request.target.rsplit("/", 1)[-1], asked, told)
        return response


def tell(verb: str, asked: dict[str, Any], told: dict[str, Any]) -> None:
    feature = asked.get("feature_code", "")
    match verb:
        case "authorize" if told["ok"]:
            tokens = 0 if feature.startswith("tool.") else int(asked.get("estimated_quantity_minor") or 0)
            expected = f"about {tokens:,} tokens" if tokens else "once"
            print(f"  {paint('authorize', 'yellow')}  {feature:<22} {expected:<22} {paint('yes', 'green')}")
        case "authorize":
            print(f"  {paint('authorize', 'yellow')}  {feature:<22} {'':<22} {paint('no: ' + told['message'], 'red')}")
        case "commits":
            meters = asked.get("meters") or []
            parts = [f"{int(line['quantity_minor']):,} {line['meter_code'].rsplit('.', 1)[-1]}" for line in meters]
            used = ", ".join(parts) or f"{int(asked['quantity_minor']):,}"
            print(f"  {paint('commit', 'green')}     {feature:<22} {used:<22} {usd(int(told['data']['amount_xusd']))}")
        case "cancel":
            print(f"  {paint('cancel', 'red')}     the work failed, nothing is charged")


def show_bill(bill: Bill, gate: LocalGate) -> None:
    """Print the bill by feature and meter; the amounts by feature are the gate's own."""
    amounts: dict[str, int] = {}
    for rating in gate.ratings(CUSTOMER):
        amounts[rating.feature_code] = amounts.get(rating.feature_code, 0) + rating.amount_xusd
    print(paint(f"  {'meter':<46} {'quantity':>8}   {'amount':>12}", "dim"))
    for feature, quantity in bill.by_feature.items():
        print(f"  {feature:<46} {quantity:>8,}   {usd(amounts[feature])}")
        for meter, part in bill.by_meter.items():
            if meter.startswith(f"{feature}."):
                print(paint(f"    {meter:<44} {part:>8,}", "dim"))
    print(paint(f"  {f'total, with {bill.tokens:,} tokens':<55}   {usd(bill.amount_xusd)}", "bold"))


def main() -> None:
    # LangChain warns of every error that a handler raises, and a denial is one.
    logging.getLogger("langchain_core").setLevel(logging.ERROR)
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
        run_id = uuid4()
        reply = agent.invoke(asked, config={"callbacks": [handler], "run_id": run_id})
        print(f"\n{paint('Answer', 'bold')}    {reply['messages'][-1].text}\n")

        print(paint("Bill", "bold"))
        show_bill(handler.bill(run_id), local)
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
            print(f"\n{paint('Denied', 'red')}    {denied}")
            print("          The model was not called.\n")


if __name__ == "__main__":
    main()
