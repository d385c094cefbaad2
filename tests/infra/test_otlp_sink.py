"""The sink against the SDK's real exporter, as two services of two sites use it."""

import asyncio
import gzip

import httpx
import pytest
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry

from infra.otlp_sink import MAX_BODY_BYTES, OtlpSink, SinkSpan, SpanTree
from prfaas.telemetry import names
from prfaas.telemetry.tracing import Tracing, extract, inject, set_up_tracing, trace_id

PROTOBUF = {"content-type": "application/x-protobuf"}


def set_up(role: str, site: str, sink: OtlpSink, monkeypatch: pytest.MonkeyPatch) -> Tracing:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
    tracing = set_up_tracing(role=role, instance=f"{role}-0", site=site, registry=CollectorRegistry())
    assert tracing.enabled
    return tracing


async def flush(*tracings: Tracing) -> None:
    assert all(await asyncio.gather(*(asyncio.to_thread(tracing.shut_down, 60) for tracing in tracings)))


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_one_trace_of_two_services_arrives_as_one_tree(monkeypatch: pytest.MonkeyPatch, compression: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    async with OtlpSink() as sink:
        gateway, worker = set_up("gateway", "east", sink, monkeypatch), set_up("prefill-worker", "west", sink, monkeypatch)
        root = gateway.start("chat m", parent=None, start_ns=1_000, attributes={names.USAGE_INPUT_TOKENS: 4000})
        gateway.record("place", parent=root, start_ns=2_000, end_ns=3_000, attributes={names.ROUTE_OFFLOADED: True})
        headers = inject(root, {})
        prefill = worker.start("prefill", parent=extract(headers), start_ns=4_000)
        worker.record(
            "kv_send", parent=prefill, start_ns=5_000, end_ns=7_000,
            attributes={names.KV_OVERLAP_RATIO: 0.5, names.RESPONSE_FINISH_REASONS: ["stop"]},
        )  # fmt: skip
        prefill.set_status(StatusCode.ERROR, "the engine is gone")
        prefill.end(8_000)
        root.end(9_000)
        await flush(gateway, worker)
        tree = await sink.wait_for_trace(trace_id(root), until=lambda tree: len(tree.spans) == 4, timeout_s=60)

    assert [(depth, span.name, span.service, span.site) for depth, span in tree.walk()] == [
        (0, "chat m", "prfaas-gateway", "east"),
        (1, "place", "prfaas-gateway", "east"),
        (1, "prefill", "prfaas-prefill-worker", "west"),
        (2, "kv_send", "prfaas-prefill-worker", "west"),
    ]
    chat, place, failed, send = tree.spans
    assert (chat.start_ns, chat.end_ns, chat.parent_id, chat.attributes) == (1_000, 9_000, "", {names.USAGE_INPUT_TOKENS: 4000})
    assert place.attributes == {names.ROUTE_OFFLOADED: True} and not place.failed
    assert send.attributes == {names.KV_OVERLAP_RATIO: 0.5, names.RESPONSE_FINISH_REASONS: ["stop"]}
    assert (failed.failed, failed.message) == (True, "the engine is gone")
    assert tree.parent(send) == failed and tree.parent(chat) is None and tree.named("place") == [place]


async def test_a_trace_that_does_not_come_is_an_error_that_lists_what_did(monkeypatch: pytest.MonkeyPatch) -> None:
    async with OtlpSink() as sink:
        tracing = set_up("gateway", "east", sink, monkeypatch)
        span = tracing.start("chat m", parent=None)
        span.end()
        await flush(tracing)
        with pytest.raises(TimeoutError, match="its spans so far: prfaas-gateway:chat m"):
            await sink.wait_for_trace(trace_id(span), until=lambda tree: len(tree.spans) > 1, timeout_s=0.05)


async def test_it_keeps_the_newest_spans_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with OtlpSink(max_spans=3) as sink:
        tracing = set_up("gateway", "east", sink, monkeypatch)
        for i in range(10):
            tracing.record(f"span {i}", parent=None, start_ns=i, end_ns=i)
        await flush(tracing)
        assert [span.name for span in sink.spans] == ["span 7", "span 8", "span 9"]


async def test_what_is_no_trace_is_refused_and_the_sink_goes_on() -> None:
    bomb = gzip.compress(bytes(MAX_BODY_BYTES + 1))
    async with OtlpSink() as sink, httpx.AsyncClient(base_url=sink.url, trust_env=False, timeout=60) as client:
        for content, headers, status in (
            (b"{}", {"content-type": "application/json"}, 415),
            (b"\xff\xff\xff", PROTOBUF, 400),
            (b"no gzip", {**PROTOBUF, "content-encoding": "gzip"}, 400),
            (bomb, {**PROTOBUF, "content-encoding": "gzip"}, 400),
            (bytes(MAX_BODY_BYTES + 1), PROTOBUF, 413),
            (b"", PROTOBUF, 200),
        ):
            assert (await client.post("/v1/traces", content=content, headers=headers)).status_code == status
        assert sink.spans == ()


def test_a_span_without_its_parent_stands_as_a_root() -> None:
    def span(span_id: str, parent_id: str, start_ns: int) -> SinkSpan:
        return SinkSpan(
            trace_id="t", span_id=span_id, parent_id=parent_id, name=span_id, service="s", site="a", start_ns=start_ns, end_ns=9
        )

    tree = SpanTree([span("b", "a", 2), span("orphan", "lost", 1), span("a", "client", 0)])
    assert [(depth, span.name) for depth, span in tree.walk()] == [(0, "a"), (1, "b"), (0, "orphan")]
