"""Meters of single runs: what LangChain reports at the end, as what the gate is sent."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from langchain_core.outputs import LLMResult

from langchain_vluna import naming, usage
from langchain_vluna._core import wire
from langchain_vluna._core.types import Usage
from langchain_vluna._core.wire import rules
from langchain_vluna.callbacks.events import Events
from langchain_vluna.callbacks.options import HandlerOptions, ToolQuantity
from langchain_vluna.gate.spec import RunSpec, UsageBody

__all__ = ["ModelMeter", "ToolMeter"]

logger = logging.getLogger("langchain_vluna")


class ModelMeter:
    """Measures one model run: counts what a stream delivers, reads what the result reports."""

    def __init__(self, spec: RunSpec, options: HandlerOptions, *, prompt_tokens: int, batch_size: int) -> None:
        self.spec = spec
        self.batch_size = batch_size
        self._delivered = usage.Delivered()
        # For each token of a stream, so without a call in between.
        self.add = self._delivered.add
        self._events: Events | None = None
        self._options = options
        self._prompt_tokens = prompt_tokens
        self._last_event: object = None

    def add_event(self, event: Any) -> None:
        """Count an event of a stream, once however many handlers are told of it."""
        if event is not self._last_event:
            self._last_event = event
            self._events = self._events or Events()
            self._events.add(event)

    def partial(self) -> UsageBody | None:
        if self._options.on_abort == "cancel" or not self._delivered_tokens:
            return None
        return self._body(
            self._streamed.complete(prompt_estimate=self._prompt_tokens, delivered_estimate=self._delivered_tokens)
        )

    @property
    def _delivered_tokens(self) -> int:
        return max(self._delivered.tokens, self._events.tokens if self._events else 0)

    @property
    def _streamed(self) -> usage.Reported:
        """What the stream itself reported."""
        return self._delivered.reported.or_else(self._events.reported if self._events else usage.Reported())

    def finished(self, result: LLMResult, reports: usage.BatchReports, batch: object) -> UsageBody | None:
        """Return what a finished run is charged; `None` where that is nothing, such as an answer from a cache."""
        # The cache delivers no tokens one by one: a cost of 0 at the end of a stream is the provider's own word.
        if usage.is_cache_hit(result, self.spec.run_id) and not self._delivered.size:
            return None
        report = self._delivered.corrected(usage.read_result(result))
        reported = reports.settle(report, parent_run_id=batch, batch_size=self.batch_size)
        delivered = 0
        if not reported.is_whole:
            reported = reported.or_else(self._streamed)
            delivered = max(usage.estimate_result_tokens(result), self._delivered_tokens)
        return self._complete(reported, delivered, usage.extra_work(result))

    def decided(self, outputs: object) -> UsageBody | None:
        """Return what a finished decision model is charged."""
        return self._complete(usage.read_outputs(outputs), usage.estimate_value_tokens(outputs))

    def fallback(self) -> UsageBody | None:
        """Return what a run that never ends is charged where the user wants an estimate charged."""
        return self._body(Usage(self._prompt_tokens, 0, source="estimated"))

    def _complete(
        self, reported: usage.Reported, delivered: int, extra: Mapping[str, int] | None = None
    ) -> UsageBody | None:
        if not reported.is_whole and self._options.on_missing_usage == "cancel":
            return None
        used = reported.complete(prompt_estimate=self._prompt_tokens, delivered_estimate=delivered)
        return self._body(replace(used, extra=extra) if extra else used)

    def _body(self, used: Usage) -> UsageBody | None:
        if not used.total_tokens:
            return None
        quantity, meters = self._quantities(used)
        if not quantity:
            return None
        labels = {**self.spec.labels, "usage_source": used.source}
        if used.model:
            labels["model"] = rules.label_text(used.model)
        if used.extra:
            labels["extra_work"] = rules.label_text(",".join(f"{kind}={count}" for kind, count in used.extra.items()))
        body = wire.commit_body(feature_code=self.spec.feature_code, quantity=quantity, meters=meters, labels=labels)
        return UsageBody(body, used.source, used)

    def _quantities(self, used: Usage) -> tuple[int, Mapping[str, int] | None]:
        feature, chosen = self.spec.feature_code, self._options.meters
        if not callable(chosen):
            return used.total_tokens, naming.meter_quantities(feature, used, chosen)
        try:
            own = chosen(used, feature)
            if isinstance(own, Mapping):
                meters = {naming.check_meter_code(code): quantity for code, quantity in own.items() if quantity}
                rules.meters(meters)
                # Sent without meters, the total would be charged at the price of the primary one.
                return used.total_tokens if meters else 0, meters
            if own is not None:
                rules.quantity(own, minimum=0)
                return own, None
        except Exception:
            # Border: the answer is paid for; a broken callable must not lose the charge.
            logger.exception("the meters= callable failed for feature %r; input and output tokens are sent", feature)
            return used.total_tokens, naming.meter_quantities(feature, used, "input_output")
        return used.total_tokens, None


class ToolMeter:
    """Measures one tool or retriever run: a bare quantity on the feature's primary meter."""

    def __init__(self, spec: RunSpec, how: ToolQuantity, inputs: object) -> None:
        self.spec = spec
        self._how = how
        self._inputs = inputs if callable(how) else None
        self._started = time.monotonic()

    def admitted(self) -> None:
        """Begin to count seconds: the gate's own are not the tool's."""
        self._started = time.monotonic()

    def partial(self) -> UsageBody | None:
        return None

    def finished(self, output: object) -> UsageBody | None:
        """Return what a finished run is charged; `None` where its quantity is 0."""
        labels = dict(self.spec.labels)
        if getattr(output, "status", None) == "error":
            labels["status"] = "error"
        try:
            quantity, source = self._quantity(output), "reported"
            if quantity == 0:
                return None
            return self._body(quantity, source, labels)
        except Exception:
            # Border: the work is done; a broken callable must not lose the charge.
            logger.exception("the quantity callable failed for feature %r; one call is charged", self.spec.feature_code)
            return self._body(1, "estimated", labels)

    def _body(self, quantity: int, source: str, labels: dict[str, str]) -> UsageBody:
        labels["usage_source"] = source
        body = wire.commit_body(feature_code=self.spec.feature_code, quantity=quantity, labels=labels)
        return UsageBody(body, source)

    def _quantity(self, output: object) -> int:
        if callable(self._how):
            return self._how(self._inputs, output)
        if self._how == "seconds":
            return math.ceil(time.monotonic() - self._started)
        if self._how == "bytes":
            return len(str(getattr(output, "content", output)).encode("utf-8", "surrogatepass"))
        return 1
