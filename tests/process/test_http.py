"""The routes that every service has, and the server under them."""

import asyncio

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from starlette.applications import Starlette

from prfaas.process.http import HttpServer, service_routes


async def test_health_readiness_and_metrics_over_a_real_port() -> None:
    reason: str | None = "no decode worker"
    registry = CollectorRegistry()
    Counter("frames", "Frames.", registry=registry).inc(3)
    server = HttpServer(Starlette(routes=service_routes(lambda: reason, registry)), "127.0.0.1", 0)
    serving = asyncio.create_task(server.serve())
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, timeout=60) as client:
            assert (await client.get("/health")).status_code == 200
            not_ready = await client.get("/ready")
            assert not_ready.status_code == 503 and not_ready.json()["reason"] == "no decode worker"
            reason = None
            assert (await client.get("/ready")).status_code == 200
            metrics = await client.get("/metrics")
            assert "frames_total 3.0" in metrics.text and metrics.headers["content-type"].startswith("text/plain")
            assert (await client.get("/nothing")).status_code == 404
    finally:
        server.stop()
        async with asyncio.timeout(60):
            await serving


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        # Prometheus 2.42, then 3.
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
            "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "text/plain; version=0.0.4",
        ),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;"
            "escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3",
            "application/openmetrics-text; version=1.0.0",
        ),
        ("text/plain;version=1.0.0;escaping=underscores", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0; escaping=dots", "text/plain; version=0.0.4"),
    ],
)
async def test_metrics_keep_their_names_whatever_the_scraper_asks_for(accept: str, content_type: str) -> None:
    registry = CollectorRegistry()
    Counter("vllm:frames", "Frames.", registry=registry).inc(3)
    app = Starlette(routes=service_routes(lambda: None, registry))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        metrics = await client.get("/metrics", headers={"accept": accept})
    assert metrics.headers["content-type"].startswith(content_type)
    assert "\nvllm:frames_total 3.0\n" in metrics.text
    assert metrics.text.endswith("# EOF\n") == content_type.startswith("application")


async def test_a_taken_port_is_named_before_anything_starts() -> None:
    server = HttpServer(Starlette(), "127.0.0.1", 0)
    with pytest.raises(OSError, match=f"cannot listen for HTTP on 127.0.0.1:{server.port}"):
        HttpServer(Starlette(), "127.0.0.1", server.port)
    server.stop()
    async with asyncio.timeout(60):
        await server.serve()
