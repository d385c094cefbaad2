"""JetStream's API over the bulk lane, and the bucket that takes a site's KV: an ordinary object store, without nats-py."""

import base64
import json
from typing import Any

import msgspec

from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import LaneError
from prfaas.contracts.wire import BadMessageError, decode_json

_NANOSECONDS = 1_000_000_000
_STREAM_EXISTS = 10058
STREAM_NOT_FOUND = 10059
_NO_MEMORY = 10028
API_TIMEOUT_S = 5.0
DEFAULT_BUCKET_MIB = 1024
"""Memory for KV under way to one site, in the buckets of all sites that send it."""
DEFAULT_PULL_BUCKET_MIB = 256
"""Memory for cached prefixes under way between prefill workers, likewise."""


class JetStreamError(LaneError):
    """Raised when JetStream refuses; `code` is its err_code (503 without an answer)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def stream_name(bucket: str) -> str:
    return f"OBJ_{bucket}"


def chunk_subject(bucket: str, nuid: str) -> str:
    return f"$O.{bucket}.C.{nuid}"


def meta_subject(bucket: str, object_name: str) -> str:
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(object_name.encode()).decode()}"


async def api(
    lane: BulkLane, verb: str, body: dict[str, Any] | None = None, *, timeout_s: float = API_TIMEOUT_S
) -> dict[str, Any]:
    """Calls `$JS.API.<verb>` at the site's own server. Raises JetStreamError, DisconnectedError, TimeoutError."""
    message = await lane.request(f"$JS.API.{verb}", json.dumps(body).encode() if body else b"", timeout_s=timeout_s)
    if message.status == 503:
        raise JetStreamError(503, f"nobody answers $JS.API.{verb}: JetStream is not enabled for this account")
    try:
        answer = decode_json(message.payload, dict[str, Any])
        error = decode_json(message.payload, _Answer).error
    except BadMessageError as bad:
        raise JetStreamError(0, f"$JS.API.{verb} was answered with what is no answer: {bad}") from bad
    if error is not None:
        raise JetStreamError(error.err_code or error.code, f"{verb}: {error.description}")
    return answer


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    error: _Error | None = None


async def ensure_kv_bucket(lane: BulkLane, bucket: str, *, max_bytes: int, ttl_s: float, storage: str = "memory") -> None:
    """Creates a bucket in the own site, or brings an existing one to these limits.

    Memory suits what can be computed again; `file` outlives the server's death. A full bucket refuses new frames (discard new)
    instead of dropping what is being read. Raises JetStreamError."""
    config = {
        "name": stream_name(bucket),
        "subjects": [f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"],
        "retention": "limits",
        "discard": "new",
        "storage": storage,
        "max_bytes": max_bytes,
        "max_age": int(ttl_s * _NANOSECONDS),
        "duplicate_window": int(min(ttl_s, 120.0) * _NANOSECONDS),
        "num_replicas": 1,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "allow_batched": True,
    }
    try:
        await api(lane, f"STREAM.CREATE.{config['name']}", config)
    except JetStreamError as error:
        # The server looks for the memory first, also for a bucket that another process has made already.
        if error.code not in (_STREAM_EXISTS, _NO_MEMORY):
            raise
        try:
            await api(lane, f"STREAM.UPDATE.{config['name']}", config)
        except JetStreamError as unknown:
            raise (error if unknown.code == STREAM_NOT_FOUND else unknown) from error


async def direct_get_last(lane: BulkLane, bucket: str, subject: str, *, timeout_s: float) -> tuple[int, memoryview] | None:
    """Returns stream sequence and payload of the last message on `subject` in the site's own server; None without any.

    Raises JetStreamError when the server has no such bucket, DisconnectedError, TimeoutError."""
    message = await lane.request(f"$JS.API.DIRECT.GET.{stream_name(bucket)}.{subject}", timeout_s=timeout_s)
    if message.status == 404:
        return None
    sequence = message.header("Nats-Sequence")
    if sequence is None or not sequence.isascii() or not sequence.isdigit():
        raise JetStreamError(STREAM_NOT_FOUND, f"the server has no stream {stream_name(bucket)} (status {message.status})")
    return int(sequence), message.payload
