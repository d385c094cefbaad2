"""Requests as the console has seen them."""

from typing import Any

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_gateway import Finished, PrefillTimes, Started
from prfaas_gateway.console.seen_request import SeenRequest


def seen(request_id: str = "r1", tenant: str = "", **fields: Any) -> SeenRequest:
    defaults: dict[str, Any] = {
        "request_id": request_id, "client_request_id": "mine", "tenant": tenant, "model": "m", "arrived_at": 100.0,
        "arrived_unix_s": 5000.0,
    }  # fmt: skip
    return SeenRequest(**(defaults | fields))


def answered(request_id: str = "r1", **fields: Any) -> SeenRequest:
    """A request that went its whole way: 100.0 arrived, 100.1 tokenized, 100.2 accepted, 104.0 started, 105.0 ended."""
    request = seen(request_id, **fields)
    request.prompt_tokens, request.tokenized_at = 1001, 100.1
    request.placed("far", "1000 uncached tokens > t = 500", "d0", 100.2)
    started = Started(
        request_id=request_id, sequence=0, prefill_site="far", outcome=Outcome.OFFLOADED, reason="1000 > 500", cached_tokens=200,
        kv_bytes=4000,
    )  # fmt: skip
    request.started(started, 104.0)
    request.first_token_at = 104.25
    request.finished(
        Finished(
            request_id=request_id, sequence=9, finish_reason="stop", text="", completion_tokens=8,
            transfer=TransferReport(bytes=4000, frames=6, attempts=1, duration_s=2.0, arrival=((0.5, 1000), (2.0, 4000))),
            prefill=PrefillTimes(residual_s=0.2, prefill_s=2.4, queue_s=0.6, chunks=((1.2, 500), (2.4, 1000))),
        )
    )  # fmt: skip
    request.ended_at, request.status = 105.0, 200
    return request
