"""Settings of a gate and of its retries: validated once, frozen, no globals."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator

from langchain_vluna._core.errors import ConfigurationError

__all__ = ["RetryPolicy", "Settings", "Wire"]

Wire = Literal["auto", "tutorial", "user", "lease"]

_VARIABLES = {
    "base_url": "VLUNA_SERVICE_BASE_URL",
    "realm_id": "VLUNA_REALM_ID",
    "service_key_id": "VLUNA_SERVICE_KEY_ID",
    "service_key_secret": "VLUNA_SERVICE_KEY_SECRET",
}


class Settings(BaseModel):
    """Where the gate is and which service key signs for it. The secret is never shown."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str
    """With the prefix, e.g. `https://gate.example/mgt/v1`."""
    realm_id: str
    service_key_id: str
    service_key_secret: SecretStr
    """Base64, as issued."""

    @field_validator("base_url")
    @classmethod
    def _http_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            msg = "must be an http(s) URL with a host, such as https://gate.example/mgt/v1"
            raise ValueError(msg)
        return value.rstrip("/")

    @field_validator("realm_id", "service_key_id")
    @classmethod
    def _header_text(cls, value: str) -> str:
        if not value or value != value.strip() or not value.isascii() or not value.isprintable():
            msg = "must be non-empty printable ASCII without blanks at its ends"
            raise ValueError(msg)
        return value

    @field_validator("service_key_id")
    @classmethod
    def _no_comma(cls, value: str) -> str:
        if "," in value:
            msg = "must not contain a comma"
            raise ValueError(msg)
        return value

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the four official variables; `ConfigurationError` names what is missing or wrong."""
        environ = os.environ if environ is None else environ
        missing = [name for name in _VARIABLES.values() if not environ.get(name)]
        if missing:
            msg = f"not set in the environment: {', '.join(missing)}; set them, or use Gate.local(), the embedded gate"
            raise ConfigurationError(msg)
        try:
            return cls(**{field: environ[name] for field, name in _VARIABLES.items()})  # type: ignore[arg-type]
        except ValidationError as error:
            problems = "; ".join(f"{_VARIABLES[str(e['loc'][0])]}: {e['msg']}" for e in error.errors())
            raise ConfigurationError(problems) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long and how often a call is tried. Waits are seconds."""

    attempts: int = 4
    """Attempts in all, the first one included."""
    initial: float = 0.1
    """First wait; doubles from then on, with jitter."""
    maximum: float = 2.0
    """Longest wait; a longer advice of the gate ends the retries at once."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.initial < 0 or self.maximum < 0:
            msg = f"RetryPolicy needs attempts >= 1 and waits >= 0, got {self!r}"
            raise ConfigurationError(msg)
