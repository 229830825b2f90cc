"""The gate's three steps by hand, without LangChain: authorize, work, commit.

python examples/quickstart.py
"""

from __future__ import annotations

from langchain_vluna import Gate

ARTICLE = "The gate is asked before the work and told after it. Nothing is reserved and nothing is guessed."


def summarize(text: str) -> str:
    """Stand in for work that costs money."""
    return text.split(". ", maxsplit=1)[0] + "."


def main() -> None:
    with Gate.local() as gate:
        # The embedded gate starts empty: say what things cost, and give the customer something to spend.
        gate.local_gate.price("article.summary", "article.summary", 5, unit="word")
        gate.local_gate.grant("customer_123", 1_000)

        lease = gate.authorize(feature_code="article.summary", principal_id="customer_123")
        print(f"1. authorize: customer_123 may use {lease.feature_code}")

        summary = summarize(ARTICLE)
        print(f"2. work: {summary}")

        commit = gate.commit(lease, quantity=len(ARTICLE.split()))
        print(f"3. commit: {len(ARTICLE.split())} words for {commit.amount_xusd} XUSD")
        print(f"balance: {gate.local_gate.balance('customer_123')} XUSD")


if __name__ == "__main__":
    main()
