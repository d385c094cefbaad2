"""Dialect of one endpoint: everything between its wire and the one way in which answers are generated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from prfaas.contracts.to_decode import Sampling
from prfaas.contracts.to_gateway import GenerateEvent
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.openai.tool_use import ToolUse
from prfaas_gateway.openai.types import ChatRequest, CompletionRequest
from prfaas_gateway.openai.unknown_fields import UnknownFields


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request whose answer is about to begin, with what answers repeat of it."""

    request: ChatRequest | CompletionRequest
    sampling: Sampling
    tool_use: ToolUse | None
    request_id: str
    created: int
    """Unix time of the answer's start, s."""
    model: str
    system_fingerprint: str
    report: bool
    """`x-prfaas-report: 1`: the usage has a field `prfaas` with the site of the prefill and figures of the KV transfer."""


class Streamed(Protocol):
    """One answer that is sent as server-sent events."""

    progress: Progress

    def handle(self, event: GenerateEvent) -> bytes:
        """Returns the bytes to send now, possibly none. Failed gives none: `failed` has the error. Raises EventGapError."""
        ...

    def failed(self, error: ApiError) -> bytes:
        """Returns the end of a stream that has begun and fails."""
        ...


class Whole(Protocol):
    """One answer that is sent as one JSON body."""

    progress: Progress

    def handle(self, event: GenerateEvent) -> None:
        """Raises EventGapError."""
        ...

    def body(self) -> list[bytes]:
        """Returns the body in pieces, none of which takes long to send."""
        ...


class Dialect(Protocol):
    """Words of one endpoint. Pure; one object serves all requests."""

    @property
    def ping(self) -> bytes:
        """Event that a stream sends where it would be silent for long; empty: none."""
        ...

    @property
    def parse(self) -> Callable[[bytes, UnknownFields | None], ChatRequest | CompletionRequest]:
        """Reads a body. Fields that no API has go into the second argument, or are refused where it is None. Raises ApiError."""
        ...

    def streamed(self, asked: Asked, progress: Progress) -> Streamed: ...

    def whole(self, asked: Asked, progress: Progress) -> Whole: ...

    def error(self, error: ApiError) -> bytes:
        """Returns the body of a response that is an error."""
        ...
