"""Many starts at once leave room for others on their event loop."""

from __future__ import annotations

import asyncio
import contextlib

from langchain_vluna import Gate, VlunaCallbackHandler
from langchain_vluna._io.client.turnstile import Turnstiles
from langchain_vluna.testing.models import ScriptedChatModel


def play(callers: int, *, cancelled: tuple[int, ...] = ()) -> tuple[list[int], list[int]]:
    """Let so many ask for a turn at once; returns their order, and how many went in each round of the loop."""
    order: list[int] = []
    rounds: list[int] = []

    async def main() -> None:
        turnstiles = Turnstiles()

        async def caller(number: int) -> None:
            await turnstiles.turn()
            order.append(number)

        tasks = [asyncio.create_task(caller(number)) for number in range(callers)]
        for number in cancelled:
            asyncio.get_running_loop().call_soon(tasks[number].cancel)
        while not all(task.done() for task in tasks):
            before = len(order)
            await asyncio.sleep(0)
            rounds.append(len(order) - before)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    return order, rounds


def test_a_few_go_at_once():
    """Whoever comes alone, or with two or three others, does not wait."""
    order, rounds = play(4)
    assert [0, 1, 2, 3] == order
    assert 4 == max(rounds)


def test_a_crowd_goes_in_order_and_a_few_in_each_round():
    """A thousand starts take many rounds, between which the loop serves everybody else."""
    order, rounds = play(1000)
    assert list(range(1000)) == order
    assert 4 == max(rounds)
    assert len(rounds) < 600


def test_who_is_cancelled_while_waiting_takes_no_turn():
    """The others go on as if it had not been there."""
    order, _ = play(40, cancelled=(10, 39))
    assert [number for number in range(40) if number not in (10, 39)] == order


def test_each_loop_has_a_turnstile_of_its_own():
    """A loop that was left in the middle of a crowd keeps nobody waiting elsewhere."""
    turnstiles = Turnstiles()

    async def crowd() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.gather(*(turnstiles.turn() for _ in range(100)))

    async def alone() -> None:
        await turnstiles.turn()

    asyncio.run(crowd())
    asyncio.run(asyncio.wait_for(alone(), 5))


def test_a_burst_of_runs_leaves_the_loop_to_others():
    """While two hundred runs start at once, somebody else on the loop has a turn after every few of them."""
    rounds = 0

    async def main(gate: Gate) -> None:
        handler = VlunaCallbackHandler(gate, principal_id="customer")
        model = ScriptedChatModel()

        async def somebody_else() -> None:
            nonlocal rounds
            while gate.local_gate.requests["authorize"] < 200:
                rounds += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(somebody_else())
        await asyncio.gather(*(model.ainvoke("hello", {"callbacks": [handler]}) for _ in range(200)))
        await other

    with Gate.local() as gate:
        for side in ("input", "output"):
            gate.local_gate.price("scripted.scripted-1", f"scripted.scripted-1.tokens.{side}", 1)
        gate.local_gate.grant("customer", 10**9)
        asyncio.run(main(gate))
        assert 0 == gate.flush(30)
        assert 200 == len(gate.local_gate.ratings())
    assert rounds >= 50
