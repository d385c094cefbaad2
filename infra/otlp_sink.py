"""A small OTLP/HTTP trace receiver inside the process that asks, for tests and `make demo`. Keeps the newest spans only."""

import asyncio
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from prfaas.process.http import HttpServer
from prfaas.telemetry import names

MAX_BODY_BYTES = 16 * 2**20

Attribute = str | bool | int | float | list["Attribute"] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkSpan:
    trace_id: str
    span_id: str
    parent_id: str
    """Id of the parent span; empty when the trace began here."""
    name: str
    service: str
    site: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Attribute] = field(default_factory=dict)
    failed: bool = False
    message: str = ""
    """Description of a failure."""

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


class SpanTree:
    """The spans of one trace. A span whose parent has not come (or is the client's own) stands as a root."""

    def __init__(self, spans: Sequence[SinkSpan]) -> None:
        self.spans = sorted(spans, key=lambda span: (span.start_ns, -span.end_ns))
        known = {span.span_id for span in spans}
        self.roots = [span for span in self.spans if span.parent_id not in known]
        self._children: dict[str, list[SinkSpan]] = {}
        for span in self.spans:
            self._children.setdefault(span.parent_id, []).append(span)

    def children(self, span: SinkSpan) -> list[SinkSpan]:
        return self._children.get(span.span_id, [])

    def parent(self, span: SinkSpan) -> SinkSpan | None:
        return next((other for other in self.spans if other.span_id == span.parent_id), None)

    def named(self, name: str) -> list[SinkSpan]:
        return [span for span in self.spans if span.name == name]

    def walk(self) -> list[tuple[int, SinkSpan]]:
        """Yields (depth, span), depth first, siblings by their start."""
        found: list[tuple[int, SinkSpan]] = []
        stack = [(0, span) for span in reversed(self.roots)]
        while stack:
            depth, span = stack.pop()
            found.append((depth, span))
            stack += [(depth + 1, child) for child in reversed(self.children(span))]
        return found


class OtlpSink:
    """`async with OtlpSink() as sink`: give `sink.url` to processes as OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, max_spans: int = 10_000) -> None:
        self._spans: deque[SinkSpan] = deque(maxlen=max_spans)
        self._arrived = asyncio.Condition()
        self._http = HttpServer(Starlette(routes=[Route("/v1/traces", self._export, methods=["POST"])]), host, port)
        self._serving: asyncio.Task[None] | None = None
        self.url = f"http://{host}:{self._http.port}"

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._http.serve(), name="otlp-sink")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.stop()
        if self._serving is not None:
            await asyncio.wait_for(self._serving, timeout=5)

    @property
    def spans(self) -> Sequence[SinkSpan]:
        """Spans of all traces, oldest first."""
        return tuple(self._spans)

    def trace(self, trace_id: str) -> SpanTree:
        """Returns the spans of a trace that have come so far; `trace_id` is 32 hex digits."""
        return SpanTree([span for span in self._spans if span.trace_id == trace_id])

    async def wait_for_trace(self, trace_id: str, *, until: Callable[[SpanTree], bool], timeout_s: float) -> SpanTree:
        """Waits for the named spans of a trace. Raises TimeoutError, which lists those that came."""
        try:
            async with asyncio.timeout(timeout_s), self._arrived:
                await self._arrived.wait_for(lambda: until(self.trace(trace_id)))
                return self.trace(trace_id)
        except TimeoutError as error:
            came = ", ".join(f"{span.service}:{span.name}" for span in self.trace(trace_id).spans) or "none"
            raise TimeoutError(f"trace {trace_id} is not complete after {timeout_s} s; its spans so far: {came}") from error

    async def _export(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != "application/x-protobuf":
            return PlainTextResponse("only application/x-protobuf is taken", 415)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                return PlainTextResponse(f"more than {MAX_BODY_BYTES} bytes", 413)
        try:
            data = _decompressed(bytes(body)) if request.headers.get("content-encoding") == "gzip" else bytes(body)
            spans = decode_spans(data)
        except (DecodeError, zlib.error) as error:
            return PlainTextResponse(f"no ExportTraceServiceRequest: {error}", 400)
        async with self._arrived:
            self._spans.extend(spans)
            self._arrived.notify_all()
        return Response(ExportTraceServiceResponse().SerializeToString(), media_type="application/x-protobuf")


def decode_spans(data: bytes) -> list[SinkSpan]:
    """Reads spans from a serialized ExportTraceServiceRequest. Raises protobuf's DecodeError."""
    found = []
    for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
        about = _attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                found.append(
                    SinkSpan(
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        name=span.name,
                        service=str(about.get(names.SERVICE_NAME, "")),
                        site=str(about.get(names.SITE, "")),
                        start_ns=span.start_time_unix_nano,
                        end_ns=span.end_time_unix_nano,
                        attributes=_attributes(span.attributes),
                        failed=span.status.code == Status.STATUS_CODE_ERROR,
                        message=span.status.message,
                    )
                )
    return found


def _attributes(pairs: Sequence[KeyValue]) -> dict[str, Attribute]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Attribute:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case _:
            return None


def _decompressed(body: bytes) -> bytes:
    gunzip = zlib.decompressobj(wbits=31)
    data = gunzip.decompress(body, MAX_BODY_BYTES)
    if gunzip.unconsumed_tail:
        raise zlib.error(f"more than {MAX_BODY_BYTES} bytes when decompressed")
    return data
