"""What the page sends: parsed and checked here, described from here in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from langchain_vluna._core.ledger.model import Rounding
from langchain_vluna._io.local import FaultKind
from langchain_vluna._io.local.views import Filter, SpendBy

__all__ = [
    "Clock",
    "Expiry",
    "Follow",
    "Grant",
    "JournalQuery",
    "LeaseQuery",
    "NewFault",
    "NewPolicy",
    "NewPrice",
    "RowQuery",
    "SpendQuery",
    "Withdrawal",
    "parse_query",
]

_MOST = 2**53 - 1
_ROWS = 1000
_YEAR = 366 * 86_400

Name = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00]+$")]
Amount = Annotated[int, Field(ge=0, le=_MOST, strict=True)]
Window = Annotated[int, Field(ge=1, le=_YEAR, strict=True)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
QueryT = TypeVar("QueryT", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- questions


class FilterQuery(_Strict):
    principal_id: Name | None = None
    user_id: Name | None = None
    thread_id: Name | None = None
    run_id: Name | None = None
    """A run's own id, that of its root, or a lease."""

    def filter(self) -> Filter:
        return Filter(self.principal_id, self.user_id, self.thread_id, self.run_id)


class RowQuery(FilterQuery):
    limit: Annotated[int, Field(ge=1, le=_ROWS)] = 200


class JournalQuery(RowQuery):
    before: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = None
    """Only entries older than this one."""


class LeaseQuery(RowQuery):
    open: bool = True
    """Only those that are active and have no commit."""


class SpendQuery(FilterQuery):
    by: SpendBy = "feature"
    span: Literal["hour", "day", "week", "month"] = "hour"


class Follow(FilterQuery):
    after: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    """The last entry that is known; without it only what is new from now on."""


# --- changes


class Grant(_Strict):
    principal_id: Name
    user_id: Name | None = None
    xusd: Amount


class Withdrawal(_Strict):
    principal_id: Name
    user_id: Name | None = None


class NewPrice(_Strict):
    feature_code: Name
    meter_code: Name
    xusd: Amount | None
    """`null` is a meter without a price, which quarantines what is committed on it."""
    per: Annotated[int, Field(ge=1, le=_MOST, strict=True)] = 1
    unit: Name = "token"
    rounding: Rounding = "nearest"


class NewPolicy(_Strict):
    kind: Literal["quota", "rate"]
    feature_code: Name
    limit: Amount | None
    """`null` lifts it."""
    window_sec: Window


class NewFault(_Strict):
    kind: FaultKind
    on: Literal["*", "authorize", "commit", "cancel", "batch", "ingest", "preflight", "limits"] = "*"
    times: Annotated[int, Field(ge=1, le=2**31, strict=True)] = 1
    seconds: Seconds | None = None
    """Length of a `delay`, or the wait that a `status_429` advises."""


class Clock(_Strict):
    advance_seconds: Annotated[float, Field(ge=-_YEAR, le=_YEAR, allow_inf_nan=False)]
    """Negative puts it back."""


class Expiry(_Strict):
    lease_id: Name | None = None
    """`null` is every open lease."""


def parse_query(model: type[QueryT], request: Request) -> QueryT:
    """Read query parameters; an empty one is one that was left out, as forms send it.

    Raises:
        pydantic.ValidationError: They are not what the model says.
    """
    return model.model_validate({name: value for name, value in request.query_params.items() if value != ""})
