"""Usage of finished runs: from `LLMResult`s and from the outputs of decision models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from langchain_vluna._core.types import Usage
from langchain_vluna._io import forks
from langchain_vluna.usage.estimates import generation_size
from langchain_vluna.usage.reported import Coverage, Reported, read_counts, read_usage_metadata

__all__ = [
    "BatchReports",
    "is_cache_hit",
    "read_outputs",
    "read_result",
    "usage_from_outputs",
    "usage_from_result",
]

_OUTPUT_KEYS = ("token_usage", "usage", "usage_metadata", "token_count", "amazon-bedrock-invocationMetrics")
_MODEL_KEYS = ("model_name", "model", "model_id")


def usage_from_result(result: LLMResult) -> Usage | None:
    """Return the usage that a model run reported; `None` unless it reported both sides of it."""
    return read_result(result).usage


def read_result(result: LLMResult) -> Reported:
    """Read all that a result says about its tokens, for `Reported.complete` where it does not say all.

    `usage_metadata` first, the only uniform source; what it leaves open is looked for where providers
    put their own counts: `llm_output`, `response_metadata`, `generation_info`.
    """
    generations = [generation for choices in result.generations for generation in choices]
    counts = [counts for g in generations if (counts := read_usage_metadata(_usage_metadata(g)))]
    report = _judged(_once(counts), generations)
    if not report.is_whole:
        for source in _provider_counts(result, generations):
            report = report.or_else(_judged(source, generations))
    return replace(report, model=_model(result, generations), covers=_coverage(result, generations, report))


def is_cache_hit(result: LLMResult, run_id: object = None) -> bool:
    """Whether a chat model's answer came from LangChain's LLM cache, which costs nothing.

    langchain-core marks it with `usage_metadata["total_cost"] == 0` and gives it no `llm_output`.
    Plain LLMs fire no events for a hit at all. With a cache in memory the mark is made on the very answer that
    was stored, maybe before its own run ends: an answer named after `run_id` is no hit.
    """
    if result.llm_output:
        return False
    generations = [generation for choices in result.generations for generation in choices]
    found = [_usage_metadata(generation) for generation in generations]
    marked = any(isinstance(usage, Mapping) and usage.get("total_cost") == 0 for usage in found)
    return marked and not any(_is_named_after(run_id, generation) for generation in generations)


def usage_from_outputs(outputs: object) -> Usage | None:
    """Return the usage of a decision model's run; `None` unless it reported both sides of it."""
    return read_outputs(outputs).usage


def read_outputs(outputs: object) -> Reported:
    """Read the outputs of a `BaseDecisionModel` run (langchain-core 1.8): a chain end whose start had `run_type="llm"`.

    Its `usage` fills a missing side with 0, so a zero is unknown here on both sides.
    """
    fields = (
        outputs if isinstance(outputs, Mapping) else {name: getattr(outputs, name, None) for name in ("usage", "model")}
    )
    report = read_usage_metadata(fields.get("usage")) or Reported()
    model = fields.get("model")
    return replace(report.judged(delivered=True), model=model if isinstance(model, str) else None)


class BatchReports:
    """Joins what LangChain takes apart when a plain LLM gets several prompts.

    One request then serves several runs: its usage is on the first of them, and the others carry an empty
    `token_usage`. They are free if the first one reported, and unknown if it did not. First runs end first.
    Bounded: of a batch whose runs do not all end, the memory goes when 256 newer ones are waiting.
    """

    _CAPACITY = 256

    def __init__(self) -> None:
        self._lock = forks.Lock()
        self._open: OrderedDict[Hashable, int] = OrderedDict()

    def settle(self, report: Reported, *, parent_run_id: Hashable, batch_size: int) -> Reported:
        """Return the report of one run of a batch; zero and known if an earlier one covers it."""
        if batch_size <= 1:
            return report
        with self._lock:
            waiting = self._open.pop(parent_run_id, 0)
            if report.covers == "request":
                waiting += batch_size - 1
            elif report.covers == "elsewhere" and waiting:
                waiting -= 1
                report = replace(report, input_tokens=0, output_tokens=0, covers="run")
            if waiting:
                self._open[parent_run_id] = waiting
                while len(self._open) > self._CAPACITY:
                    self._open.popitem(last=False)
        return report


def _judged(report: Reported, generations: list[Generation]) -> Reported:
    # What was delivered matters for a zero only, and takes time to measure.
    return report.judged(delivered=report.output_tokens == 0 and any(map(generation_size, generations)))


def _once(counts: list[Reported]) -> Reported:
    """Join what the choices of one request report. With `n` > 1 each repeats the usage of the whole."""
    return sum(different[1:], different[0]) if (different := list(dict.fromkeys(counts))) else Reported()


def _provider_counts(result: LLMResult, generations: list[Generation]) -> Iterator[Reported]:
    if (counts := _counts_within(result.llm_output)) is not None:
        yield counts
    for place in (_response_metadata, _generation_info):
        if found := [counts for g in generations if (counts := _counts_within(place(g))) is not None]:
            yield _once(found)


def _counts_within(holder: object) -> Reported | None:
    if not isinstance(holder, Mapping):
        return None
    places = [*(holder.get(key) for key in _OUTPUT_KEYS), holder]
    return next((counts for place in places if (counts := read_counts(place)) is not None), None)


def _coverage(result: LLMResult, generations: list[Generation], report: Reported) -> Coverage:
    if any(isinstance(generation, ChatGeneration) for generation in generations):
        return "run"
    if report.is_whole:
        return "request" if _counts_within(result.llm_output) is not None else "run"
    return "elsewhere" if result.llm_output is not None and result.llm_output.get("token_usage") == {} else "run"


def _is_named_after(run_id: object, generation: Generation) -> bool:
    message_id = getattr(getattr(generation, "message", None), "id", None)
    return run_id is not None and isinstance(message_id, str) and str(run_id) in message_id


def _model(result: LLMResult, generations: list[Generation]) -> str | None:
    holders = [*(_response_metadata(g) for g in generations), result.llm_output]
    names = (h.get(key) for h in holders if isinstance(h, Mapping) for key in _MODEL_KEYS)
    return next((name for name in names if isinstance(name, str) and name), None)


def _usage_metadata(generation: Generation) -> Any:
    return getattr(getattr(generation, "message", None), "usage_metadata", None)


def _response_metadata(generation: Generation) -> Any:
    return getattr(getattr(generation, "message", None), "response_metadata", None)


def _generation_info(generation: Generation) -> Any:
    return generation.generation_info
