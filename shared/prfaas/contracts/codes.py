"""Failure codes: every name under which a request, an attempt or a question fails, and what a client makes of it.

Messages carry a code as `str`, because a peer of another version may send one that this version does not have: an unknown code
decodes, is counted and shown under its own name, and is treated as no member of any set below. Members compare and hash equal to
their spelling, so `code == FailureCode.TIMEOUT` and `code in REQUEST_FAULTS` hold for text from the wire too.

`python -m prfaas.contracts.codes` prints the table of docs/api.md.
"""

from enum import StrEnum

from prfaas.contracts.terms import FinishReason, Outcome

RETRY_STATUSES = frozenset({408, 429, 503})
"""HTTP statuses that invite a client to send the same request again."""


class FailureCode(StrEnum):
    """One row per code: spelling, what happened, who says it, HTTP statuses that it becomes (none: no client sees it)."""

    happened: str
    said_by: str
    statuses: tuple[int, ...]

    def __new__(cls, spelling: str, happened: str, said_by: str, *statuses: int) -> "FailureCode":
        member = str.__new__(cls, spelling)
        member._value_ = spelling
        member.happened, member.said_by, member.statuses = happened, said_by, statuses
        return member

    @property
    def retry(self) -> bool:
        """True if the same request may succeed later. The answer has one of RETRY_STATUSES then, else `x-should-retry: false`."""
        return not RETRY_STATUSES.isdisjoint(self.statuses)

    # ---- the client's request is at fault

    INVALID_REQUEST = "invalid_request", "the body is no JSON object; `code` is null there", "gateway", 400
    INVALID_VALUE = "invalid_value", "a field or header has a value out of range", "gateway", 400
    MISSING_REQUIRED_PARAMETER = "missing_required_parameter", "a required field is absent", "gateway", 400
    UNKNOWN_PARAMETER = "unknown_parameter", "no API has this field", "gateway", 400
    UNSUPPORTED_PARAMETER = "unsupported_parameter", "OpenAI's or vLLM's field, not served here", "gateway", 400
    UNSUPPORTED_VALUE = "unsupported_value", "a value that this server does not do", "gateway", 400
    CONTEXT_LENGTH_EXCEEDED = (
        "context_length_exceeded", "prompt and answer exceed the model's context", "gateway, decode worker", 400,
    )  # fmt: skip
    CACHE_TOO_SMALL = "cache_too_small", "prompt and answer exceed the worker's whole KV cache", "decode worker", 400
    BAD_REQUEST = "bad_request", "no prompt token, or none to generate", "decode worker", 400
    REQUEST_EXCEEDS_LIMIT = (
        "request_exceeds_limit", "prompt and answer exceed the tenant's limit of tokens a minute", "gateway", 400,
    )  # fmt: skip
    INVALID_API_KEY = "invalid_api_key", "no API key, or one that is unknown or revoked", "gateway", 401
    MODEL_NOT_FOUND = "model_not_found", "no model of this name is served", "gateway", 404
    UNKNOWN_URL = "unknown_url", "no such path", "gateway", 404
    METHOD_NOT_ALLOWED = "method_not_allowed", "the path has another method", "gateway", 405
    REQUEST_TIMEOUT = (
        "request_timeout", "the body did not arrive within `read-deadline-s`, or the head within 10 s", "every process", 408,
    )  # fmt: skip
    REQUEST_TOO_LARGE = "request_too_large", "the body exceeds `max-body-bytes`", "gateway", 413
    HEAD_TOO_LARGE = "head_too_large", "path and headers exceed 64 KiB, or 256 headers", "every process", 431

    # ---- no room, or nothing there to serve the request

    OVERLOADED = "overloaded", "all places are taken", "gateway, scheduler, decode worker, bus", 429
    JOB_QUEUE_FULL = "job_queue_full", "the queue of prefill jobs is full", "decode worker", 429
    NOT_IN_TIME = "not_in_time", "no prefill worker will come to the prompt in time, or no decode worker", "scheduler", 429
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded", "a limit of the API key's tenant is reached", "gateway", 429
    DRAINING = "draining", "the process is shutting down or changes its role", "gateway, decode worker", 503
    NO_ANSWER = "no_answer", "the scheduler or a decode worker does not answer", "gateway", 503
    NO_DECODE_WORKER = "no_decode_worker", "no decode worker of the model is alive", "scheduler", 503
    NO_PREFILL_WORKER = (
        "no_prefill_worker", "no prefill worker is left, or none makes KV that the decode worker takes", "scheduler", 503,
    )  # fmt: skip
    NOT_LEADING = "not_leading", "the scheduler that was asked leads no more", "scheduler", 503
    STARTING = "starting", "the process has only just started", "every process, bandwidth probe", 503
    DUPLICATE = "duplicate", "the worker runs a request of this id already", "decode worker", 503
    DEADLINE = "deadline", "no first token before the request's deadline", "gateway, decode worker", 503
    DECODE_WORKER_LOST = "decode_worker_lost", "the decode worker of the request is gone", "gateway", 503

    # ---- an attempt to prefill and to move its KV failed, and so did those after it

    TIMEOUT = "timeout", "the KV was not complete in time, or no frame came for too long", "decode worker, prefill worker", 503
    CORRUPT = "corrupt", "bytes, order or extent of the KV are not what the sender promised", "decode worker", 503
    ABORTED = "aborted", "the other end of the transfer gave up", "decode worker, prefill worker", 503
    BROKER = "broker", "NATS refused, lost or cannot take KV frames", "decode worker, prefill worker", 503
    LOSSY = "lossy", "a frame came in 8 bits, which the decode worker does not allow", "decode worker", 503
    FINGERPRINT = "fingerprint", "model, weights, dtype or layout differ", "decode worker, prefill worker", 503
    EXPIRED = "expired", "the job's time was over before its prefill ended", "prefill worker", 503
    WORKER_LOST = "worker_lost", "the prefill worker that had the job is gone", "decode worker, prefill worker", 503
    WRONG_MODEL = "wrong_model", "the worker serves another model", "decode worker, prefill worker", 503
    BAD_JOB = "bad_job", "the job does not fit its transfer, or the sites that the worker serves", "prefill worker", 503
    PREFILL_MEMORY = "prefill_memory", "no worker that was asked has the memory for this prompt's prefill", "prefill worker", 503
    MAX_DELIVERIES = "max_deliveries", "several workers took the job and none finished it", "prefill worker", 503
    JOB_NOT_QUEUED = "job_not_queued", "the prefill job could not be put into its queue", "decode worker", 503

    # ---- an answer was cut off, or something broke

    EVENTS_LOST = "events_lost", "part of the answer was lost on its way", "gateway", 503
    IDLE_DEADLINE = "idle_deadline", "no next token within `idle-deadline-s`", "gateway", 503
    CLIENT_TOO_SLOW = "client_too_slow", "the client reads more slowly than tokens come", "gateway", 500
    ENGINE = (
        "engine", "the model cannot compute this request: two prefills failed, or a decode step", "decode worker, prefill worker",
        500,
    )  # fmt: skip
    PREFILL_CRASH = (
        "prefill_crash", "two prefill workers died while they computed this prompt: it is given to no other one for 10 minutes",
        "decode worker", 500,
    )  # fmt: skip
    TEXT = "text", "a generated token gives no text", "decode worker", 500
    INTERNAL_ERROR = "internal_error", "the process that had the request failed; its log says why", "gateway, decode worker", 500
    INTERNAL = "internal", "the message could not be handled; a log says why", "bus, decode worker, prefill worker", 503
    BAD_MESSAGE = "bad_message", "a message is not of the type of its subject", "bus", 503

    # ---- ends that a client does not read, and answers to processes only

    CANCELLED = "cancelled", "the asker left; from the bus: the handler was stopped", "decode worker, prefill worker, bus", 503
    CLIENT_GONE = "client_gone", "the client closed the connection", "gateway"
    CLIENT_STALLED = "client_stalled", "the client reads nothing any more", "gateway"
    NOT_MEASURED = "not_measured", "the probe does not measure the link asked about", "bandwidth probe"


REQUEST_FAULTS = frozenset({FailureCode.CONTEXT_LENGTH_EXCEEDED, FailureCode.CACHE_TOO_SMALL, FailureCode.BAD_REQUEST})
"""Refusals that every worker would repeat."""

FINAL_REFUSALS = REQUEST_FAULTS | {FailureCode.PREFILL_CRASH, FailureCode.NOT_IN_TIME}
"""Refusals after which no other worker is asked, now or later: what is too late now is later still after a wait."""

TOO_MANY = frozenset({FailureCode.OVERLOADED, FailureCode.NOT_IN_TIME, FailureCode.JOB_QUEUE_FULL})
"""Refusals for want of room, which are no fault of what refuses."""

FALLBACK_OUTCOMES: dict[str, Outcome] = {
    FailureCode.TIMEOUT: Outcome.FALLBACK_TIMEOUT,
    FailureCode.EXPIRED: Outcome.FALLBACK_TIMEOUT,
    FailureCode.CORRUPT: Outcome.FALLBACK_CORRUPT,
    FailureCode.BROKER: Outcome.FALLBACK_BROKER,
}
"""Outcome of a request that fell back, by the code of its first attempt's failure; any other is FALLBACK_PREFILL_FAILED."""

GOOD_ENDS: frozenset[str] = frozenset({FinishReason.STOP, FinishReason.LENGTH, FailureCode.CANCELLED})
"""Ends of a request that are no fault of the service."""


def markdown_table() -> str:
    """The table of docs/api.md: one row per code that a client can see, by status."""
    rows = ["| `code` | status | try again | what happened | who says it |", "|---|---|---|---|---|"]
    for code in sorted((code for code in FailureCode if code.statuses), key=lambda code: code.statuses):
        statuses = ", ".join(map(str, code.statuses))
        rows.append(f"| `{code}` | {statuses} | {'yes' if code.retry else 'no'} | {code.happened} | {code.said_by} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown_table())
