"""What a model run used: LangChain's results, messages and chunks read as `Usage`.

Two rules hold throughout. What a provider did not say is unknown, never zero. What is
estimated says so: a `Usage` is `reported` only when the provider gave both sides of it.
Nothing here raises on what a provider sent; a value that cannot be a count is unknown.
"""

from langchain_vluna.usage.delivered import Delivered
from langchain_vluna.usage.estimates import (
    estimate_prompt_tokens,
    estimate_result_tokens,
    estimate_text_tokens,
    estimate_value_tokens,
    requested_max_tokens,
)
from langchain_vluna.usage.extra import extra_work
from langchain_vluna.usage.reported import Reported, read_counts, read_usage_metadata
from langchain_vluna.usage.results import (
    BatchReports,
    is_cache_hit,
    read_outputs,
    read_result,
    usage_from_outputs,
    usage_from_result,
)

__all__ = [
    "BatchReports",
    "Delivered",
    "Reported",
    "estimate_prompt_tokens",
    "estimate_result_tokens",
    "estimate_text_tokens",
    "estimate_value_tokens",
    "extra_work",
    "is_cache_hit",
    "read_counts",
    "read_outputs",
    "read_result",
    "read_usage_metadata",
    "requested_max_tokens",
    "usage_from_outputs",
    "usage_from_result",
]
