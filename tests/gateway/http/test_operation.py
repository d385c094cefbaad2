"""The operator's view: readiness, metrics, traces, limits, drain; and the console script itself."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.errors import NotConnectedError
from prfaas.contracts.to_decode import Generate
from prfaas.kvcache.blocks import block_hashes, unpack_hashes
from prfaas.process.config import ConfigError, load_config
from prfaas.secrets.tenants_file import Limits
from prfaas.stack.nats_server import NatsServer
from prfaas.telemetry import names
from prfaas.telemetry.tracing import Tracing
from prfaas_gateway.config import GatewayConfig
from prfaas_gateway.service import watch_bus
from tests.gateway.conftest import Edge, make_tenants, running_edge, until
from tests.gateway.scripted_site import DEADLINE_S, SITE, Emitter

ASK = {"model": "tiny", "prompt": "hello"}
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_readiness_follows_the_scheduler(edge: Edge) -> None:
    await until(lambda: edge.service.ready() is None)
    assert (await edge.get("/ready")).json() == {"status": "ready"}


async def test_not_ready_without_a_scheduler(tmp_path: Path) -> None:
    async with running_edge(tmp_path, control_deadline_s=1) as edge:
        await until(lambda: edge.service.ready() is None)
        await edge.site.stop_announcing()
        await edge.site.client.drain()
        await until(lambda: "the scheduler does not answer" in (edge.service.ready() or ""))
        answer = await edge.post("/v1/completions", ASK, x_prfaas_ttft_deadline_s="1")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_not_ready_without_a_decode_worker_for_each_model(edge: Edge) -> None:
    await until(lambda: edge.service.ready() is None)
    await edge.site.stop_announcing()
    await edge.site.announce("decode-0", gone=True)
    await until(lambda: edge.service.ready() == "no decode worker takes requests for 'tiny'")
    answer = await edge.get("/ready")
    assert (answer.status_code, answer.json()["reason"]) == (503, "no decode worker takes requests for 'tiny'")


async def test_metrics(edge: Edge) -> None:
    for stream in (False, True):
        await edge.post("/v1/completions", {**ASK, "stream": stream})
    await edge.post("/v1/completions", {**ASK, "suffix": "x"})
    await until(lambda: edge.metric("prfaas_gateway_open_requests") == 0)
    page = (await edge.get("/metrics")).text
    for line in (
        'vllm:time_to_first_token_seconds_count{model_name="tiny"} 2.0',
        'vllm:inter_token_latency_seconds_count{model_name="tiny"} 4.0',
        'vllm:e2e_request_latency_seconds_count{model_name="tiny"} 2.0',
        'vllm:prompt_tokens_total{model_name="tiny"} 4.0',
        'vllm:generation_tokens_total{model_name="tiny"} 6.0',
        'vllm:request_success_total{finished_reason="stop",model_name="tiny"} 2.0',
        'prfaas_requests_total{model_name="tiny",outcome="offloaded",prefill_site="east"} 2.0',
        'prfaas_request_failures_total{code="unsupported_parameter"} 1.0',
        'prfaas_gateway_responses_total{endpoint="completions",status="200"} 2.0',
        'prfaas_gateway_responses_total{endpoint="completions",status="400"} 1.0',
        "prfaas_gateway_open_requests 0.0",
        "prfaas_gateway_tokenize_seconds_count 2.0",
    ):
        assert line in page


async def test_late_events_of_a_cancelled_request_are_counted(edge: Edge) -> None:
    go_on = asyncio.Event()

    async def script(_generate: Generate, emit: Emitter) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await emit.started()
            go_on.set()

    edge.site.script = script
    asking = asyncio.create_task(edge.post("/v1/completions", ASK))
    await until(lambda: edge.site.running)
    asking.cancel()
    await edge.site.cancellation()
    await go_on.wait()
    await until(lambda: edge.metric("prfaas_gateway_stray_events_total") == 1)


async def test_the_process_ends_when_the_bus_has_ended(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as nats, asyncio.timeout(DEADLINE_S):
        bus = await ControlBus.connect(NatsEndpoint(url=nats.client_url), "test")
        watching = asyncio.create_task(watch_bus(bus))
        await bus.drain()
        with pytest.raises(NotConnectedError):
            await watching


def test_contradicting_deadlines_are_refused() -> None:
    flags = ("--site", SITE, "--models", "tiny", "--control.url", "nats://x", "--ttft-deadline-s", "700")
    with pytest.raises(ConfigError, match="`ttft-deadline-s` is 700, more than `max-ttft-deadline-s`"):
        load_config(GatewayConfig, argv=flags, environ={})


class Spans:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider)

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self._exporter.get_finished_spans() if span.name == name]
        return span


def parent_id(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


def span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


async def test_one_trace_from_the_client_to_the_decode_worker(tmp_path: Path) -> None:
    spans = Spans()
    async with running_edge(tmp_path, spans.tracing) as edge:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": True, "max_tokens": 9, "seed": 4}
        answer = await edge.post("/v1/chat/completions", body, traceparent=CALLER, x_request_id="mine", x_correlation_id="c")
        assert answer.headers["x-prfaas-trace-id"] == "0af7651916cd43dd8448eb211c80319c"
        await until(lambda: edge.metric("prfaas_gateway_open_requests") == 0)
        to_worker = edge.site.headers[0]["traceparent"]
        request_id = edge.site.generated[0].request_id
    root = spans.named("chat tiny")
    assert parent_id(root) == "b7ad6b7169203331"
    for child in ("tokenize", names.PLACE, names.STREAM):
        assert parent_id(spans.named(child)) == span_id(root)
    assert to_worker == f"00-0af7651916cd43dd8448eb211c80319c-{span_id(root)}-01"
    attributes = dict(root.attributes or {})
    ttft_s = attributes.pop(names.RESPONSE_TIME_TO_FIRST_CHUNK)
    assert isinstance(ttft_s, float)
    assert ttft_s > 0
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "prfaas",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.seed": 4,
        "gen_ai.request.stop_sequences": ("\nQ:",),
        "gen_ai.usage.input_tokens": 6,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.response.finish_reasons": ("stop",),
        "prfaas.prefill.site": "east",
        "prfaas.outcome": "offloaded",
        "prfaas.route.offloaded": True,
        "prfaas.route.reason": "4,000 tokens > 512",
        "prfaas.request_id": request_id,
        "prfaas.client_request_id": "mine",
        "prfaas.client_correlation_id": "c",
    }
    assert root.status.status_code is StatusCode.UNSET


async def test_a_failed_request_is_a_failed_span(tmp_path: Path) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await emit.tokens("a")
        await emit.failed("engine", "out of memory")

    spans = Spans()
    async with running_edge(tmp_path, spans.tracing) as edge:
        edge.site.script = script
        await edge.post("/v1/completions", {**ASK, "stream": True}, traceparent="nonsense")
        await until(lambda: edge.metric("prfaas_gateway_open_requests") == 0)
    root = spans.named("text_completion tiny")
    assert root.parent is None
    assert root.status.status_code is StatusCode.ERROR
    assert root.attributes is not None
    assert root.attributes["error.type"] == "engine"


async def test_more_requests_than_the_limit_are_429(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def script(_generate: Generate, emit: Emitter) -> None:
        await release.wait()
        await emit.started()
        await emit.finished(0)

    async with running_edge(tmp_path, max_requests=2) as edge:
        edge.site.script = script
        running = [asyncio.create_task(edge.post("/v1/completions", ASK)) for _ in range(2)]
        await until(lambda: len(edge.site.running) == 2)
        answer = await edge.post("/v1/completions", ASK)
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["error"]["code"]) == (429, "1", "overloaded")
        assert answer.json()["error"]["type"] == "rate_limit_error"
        release.set()
        assert [(await task).status_code for task in running] == [200, 200]


async def test_draining_lets_running_answers_finish_and_refuses_new_ones(edge: Edge) -> None:
    release = asyncio.Event()

    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await release.wait()
        await emit.finished(0)

    edge.site.script = script
    running = asyncio.create_task(edge.post("/v1/completions", {**ASK, "stream": True}))
    await until(lambda: edge.site.running)
    draining = asyncio.create_task(edge.service.drain(DEADLINE_S))
    await asyncio.sleep(0)
    answer = await edge.post("/v1/completions", ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    assert not draining.done()
    release.set()
    assert "[DONE]" in (await running).text
    async with asyncio.timeout(DEADLINE_S):
        await draining


async def test_a_request_that_crashes_us_is_a_500_and_the_next_one_is_fine(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("prfaas_gateway.http.exchange.sampling_of", lambda *_args, **_more: 1 / 0)
        answer = await edge.post("/v1/completions", ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "division" not in answer.text
    assert (await edge.post("/v1/completions", ASK)).status_code == 200


@pytest.mark.e2e
async def test_the_process(tmp_path: Path) -> None:
    """Uses the emulated model, whose files need no download."""

    async def event(process: asyncio.subprocess.Process, name: str) -> dict[str, Any]:
        assert process.stderr is not None
        async with asyncio.timeout(DEADLINE_S):
            async for line in process.stderr:
                fields: dict[str, Any] = json.loads(line)
                if fields["event"] == name:
                    return fields
        raise AssertionError(f"the process ended without `{name}`")

    async with NatsServer(tmp_path / "nats") as server:
        flags = ("--site", SITE, "--models", "emulated-dense", "--control.url", server.client_url, "--http-port", "0")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "prfaas_gateway", *flags,
            stderr=asyncio.subprocess.PIPE, env={**os.environ, "PRFAAS_CACHE_DIR": str(tmp_path / "cache")},
        )  # fmt: skip
        try:
            ready = await event(process, "ready")
            url = f"http://127.0.0.1:{ready['http_port']}"
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=DEADLINE_S) as client:
                assert (await client.get("/v1/models")).json()["data"][0]["id"] == "emulated-dense"
                assert (await client.get("/health")).status_code == 200
                soon = {"x-prfaas-ttft-deadline-s": "1"}
                assert "scheduler" in (await client.get("/ready")).json()["reason"]
                answer = await client.post("/v1/completions", json={"model": "emulated-dense", "prompt": "x"}, headers=soon)
                assert answer.status_code == 503
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(DEADLINE_S):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_equal_prompts_of_two_tenants_are_told_apart(tmp_path: Path) -> None:
    shared = Limits(prefix_group="both")
    path, keys = make_tenants(tmp_path, {"acme": Limits(), "other": Limits(), "east": shared, "west": shared})
    async with running_edge(tmp_path, block_tokens=3, tenants_file=path) as edge:
        for key in keys.values():
            body = {"model": "tiny", "prompt": [5, 6, 7, 8, 9, 10, 11]}
            answer = await edge.post("/v1/completions", body, authorization=f"Bearer {key}")
            assert answer.status_code == 200
        acme, other, east, west = (unpack_hashes(placed.block_hashes) for placed in edge.site.placed)
        assert east == west and not set(acme) & {*other, *east} and not set(other) & set(east)
        scopes = [generate.cache_scope for generate in edge.site.generated]
        assert scopes[2] == scopes[3] and len(set(scopes)) == 3
        assert acme == block_hashes([5, 6, 7, 8, 9, 10, 11], 3, scope=scopes[0]), "workers find them by what they are sent"


async def test_the_scheduler_is_told_the_prompts_whole_blocks(tmp_path: Path) -> None:
    async with running_edge(tmp_path, block_tokens=3) as edge:
        for prompt in ([5, 6, 7, 8, 9, 10, 11], [5, 6, 7, 8, 9, 4], [5, 6]):
            assert (await edge.post("/v1/completions", {"model": "tiny", "prompt": prompt})).status_code == 200
        longer, other, short = (unpack_hashes(placed.block_hashes) for placed in edge.site.placed)
        assert longer == block_hashes([5, 6, 7, 8, 9, 10, 11], 3) and len(longer) == 2
        assert longer[0] == other[0] and longer[1] != other[1] and not short
        assert {placed.block_tokens for placed in edge.site.placed} == {3}
