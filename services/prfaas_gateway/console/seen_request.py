"""Record of one request for the console: few moments and figures, taken as they come. Pure: moments of one clock, in s."""

from dataclasses import dataclass

import msgspec

from prfaas.contracts.fields import Marks
from prfaas.contracts.to_gateway import Finished, Started

SHOWN_CHARACTERS = 400
"""Longest text that is kept of what others wrote."""
_REFUSED_STATUSES = (429, 503)
_GONE_STATUS = 499


@dataclass(slots=True, kw_only=True, eq=False)
class SeenRequest:
    """A request that is well-formed and for a model that is served."""

    request_id: str
    client_request_id: str
    tenant: str
    """Tenant.label; empty without API keys."""
    model: str
    arrived_at: float
    arrived_unix_s: float
    trace_id: str = ""

    prompt_tokens: int = 0
    tokenize_started_at: float | None = None
    tokenized_at: float | None = None
    accepted_at: float | None = None
    """Moment from which a decode worker had it."""
    decode_worker: str = ""
    placed_site: str = ""
    reason: str = ""
    started_at: float | None = None
    """Moment from which its cache was whole."""
    prefill_site: str = ""
    outcome: str = ""
    cached_tokens: int = 0
    first_token_at: float | None = None
    completion_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    residual_s: float = 0.0
    transfer_s: float = 0.0
    kv_bytes: int = 0
    frames: int = 0
    attempts: int = 0
    packed_chunks: bytes = b""
    packed_arrival: bytes = b""
    """Courses of prefill and KV as MessagePack: a tenth of their size as objects."""
    moves: int = 0
    ended_at: float | None = None
    status: int = 0
    error: str = ""

    def placed(self, site: str, reason: str, worker: str, now_s: float) -> None:
        """Takes the first placement that a decode worker has accepted."""
        self.placed_site, self.reason, self.decode_worker = site, reason[:SHOWN_CHARACTERS], worker
        self.accepted_at = now_s

    def started(self, event: Started, now_s: float) -> None:
        self.started_at = now_s
        self.prefill_site, self.outcome, self.reason = event.prefill_site, event.outcome.value, event.reason[:SHOWN_CHARACTERS]
        self.cached_tokens = event.cached_tokens

    def finished(self, event: Finished) -> None:
        self.completion_tokens = event.completion_tokens
        transfer, prefill = event.transfer, event.prefill
        self.queue_s, self.prefill_s, self.residual_s = prefill.queue_s, prefill.prefill_s, prefill.residual_s
        self.transfer_s, self.kv_bytes = transfer.duration_s, transfer.bytes
        self.frames, self.attempts = transfer.frames, transfer.attempts
        self.packed_chunks = msgspec.msgpack.encode(prefill.chunks)
        self.packed_arrival = msgspec.msgpack.encode(transfer.arrival)

    @property
    def chunks(self) -> Marks:
        return unpacked(self.packed_chunks)

    @property
    def arrival(self) -> Marks:
        return unpacked(self.packed_arrival)

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_token_at is None else self.first_token_at - self.arrived_at

    @property
    def became(self) -> str:
        """End of the request in a word: its outcome, or why it has no whole answer."""
        if not self.error:
            return self.outcome
        if self.status == _GONE_STATUS:
            return "left"
        if self.status in _REFUSED_STATUSES:
            return "refused"
        return "rejected" if 400 <= self.status < 500 else "failed"


def unpacked(packed: bytes) -> Marks:
    return msgspec.msgpack.decode(packed, type=Marks) if packed else ()
