"""Carries rows to the gate, and sees to those that come back unsettled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from langchain_vluna._core.errors import GateProtocolError, GateUnavailable, VlunaError
from langchain_vluna._core.exchange import Flow
from langchain_vluna._io.client import Client
from langchain_vluna._io.outbox import OutboxError, Row, rows
from langchain_vluna._io.relay.circuit import Circuit, RelayTimes
from langchain_vluna._io.relay.inflight import Inflight
from langchain_vluna._io.relay.settlement import Settlement, Unsettled

__all__ = ["BROKEN_WAIT", "Carrier", "Complaints", "Job"]

logger = logging.getLogger("langchain_vluna")

BROKEN_WAIT = 5.0
"""Seconds after which something is tried again that our own side cannot do now."""
_SAY_AGAIN = 60.0
_MOST_COMPLAINTS = 100

Job = tuple[Settlement, list[Row]]


class Complaints:
    """Says what is wrong with an outbox once a minute, and not at each of the many times it is noticed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}

    def say(self, error: OutboxError) -> None:
        """Log an error that makes settlement wait."""
        now = self._clock()
        if now - self._said.get(error.message, -_SAY_AGAIN) < _SAY_AGAIN:
            return
        if len(self._said) >= _MOST_COMPLAINTS:
            self._said.clear()
        self._said[error.message] = now
        logger.error("settlement waits: %s", error)


class Carrier:
    """Settles rows that it was given for itself, and gives them back."""

    def __init__(
        self,
        client: Client,
        times: RelayTimes,
        circuit: Circuit,
        inflight: Inflight,
        complaints: Complaints,
        *,
        wake: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        """`wake` is called when rows need the background, `done` whenever a job has come to its end."""
        self._client = client
        self._times = times
        self._circuit = circuit
        self._inflight = inflight
        self._complaints = complaints
        self._wake = wake
        self._done = done

    def carry_out(self, job: Job) -> None:
        """Settle rows in a thread of the relay."""
        settlement, batch = job
        rest = 0.0
        try:
            self._client.perform(settlement.one(batch[0]) if len(batch) == 1 else settlement.batch(batch))
            self._circuit.answered()
        except Unsettled as unsettled:
            rest = self._times.first_retry
            self._client.perform(self._put_off(settlement, batch, unsettled.error))
        except OutboxError as error:
            # The gate has answered and the disk does not take it: the gate will be asked again.
            rest = BROKEN_WAIT
            self._complaints.say(error)
        except Exception:
            # Border of the thread: one row that breaks our own code must not stop the settling of all others.
            logger.exception("settlement of %d rows failed", len(batch))
            rest = BROKEN_WAIT
            self._client.perform(self._put_off(settlement, batch, VlunaError("internal error; see the log")))
        finally:
            self._circuit.probed()
            self._inflight.release((row.attempt for row in batch), rest)
            self._done()

    def inline(self, settlement: Settlement, row: Row) -> Flow[None]:
        """Settle one row in the caller's own flow; what fails or is interrupted is left to the background."""
        settled = False
        try:
            yield from settlement.one(row)
            settled = True
            self._circuit.answered()
        except Unsettled as unsettled:
            yield from self._put_off(settlement, [row], unsettled.error)
        except OutboxError as error:
            self._complaints.say(error)
        finally:
            self._inflight.release([row.attempt])
            if not settled:
                self._wake()

    def _put_off(self, settlement: Settlement, batch: Sequence[Row], error: VlunaError) -> Flow[None]:
        if isinstance(error, GateUnavailable | GateProtocolError):
            self._circuit.failed(error.retry_after)
        tries = max(row.tries for row in batch) + 1
        due = settlement.outbox.clock() + self._times.backoff(tries, error.retry_after)
        attempts = [row.attempt for row in batch]
        try:
            yield from settlement.outbox.record(
                lambda db: rows.postpone(db, attempts, due, error.message), atomic=len(attempts) > 1
            )
        except OutboxError as failure:
            self._complaints.say(failure)
