import asyncio
import datetime
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from prometheus_client import CollectorRegistry

from prfaas.bus.endpoint import NatsEndpoint
from prfaas.engine.model_directory import ModelFiles
from prfaas.process.http import HttpServer, service_routes
from prfaas.process.runner import ServiceContext
from prfaas.process.tasks import Tasks
from prfaas.secrets.api_keys import make_key
from prfaas.secrets.tenants_file import Limits, add_key
from prfaas.stack.nats_server import NatsServer
from prfaas.telemetry.tracing import Tracing
from prfaas_gateway.config import GatewayConfig
from prfaas_gateway.service import GatewayService
from tests.gateway.documented import check_exchange
from tests.gateway.scripted_site import DEADLINE_S, SITE, ScriptedSite
from tests.gateway.tiny_tokenizer import WORDS, tiny_tokenizer

GROWING_S = ("0.5", "2", "8", "32")
"""Deadlines to try one after another where one is to pass: a stalled machine may let it pass too early, not all of them."""
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)


@dataclass
class Edge:
    """A running gateway with its HTTP server, and what a test talks to it with."""

    site: ScriptedSite
    service: GatewayService
    port: int
    registry: CollectorRegistry
    nats: NatsServer
    http: httpx.AsyncClient

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def openai(self, **settings: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            **{"base_url": f"{self.url}/v1", "api_key": "unused", "max_retries": 0, "timeout": DEADLINE_S, **settings}
        )

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        answer = await self.http.post(path, headers=named, **content)
        if not self.service._config.ignore_unknown_fields:
            check_exchange(path, answer.request.content, answer)
        return answer

    async def get(self, path: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.get(path, headers=named)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


def model_files(directory: Path, generation_config: dict[str, Any] | None = None) -> ModelFiles:
    tokenizer = directory / "tokenizer.json"
    tiny_tokenizer().save(str(tokenizer))
    return ModelFiles(
        model="tiny",
        directory=directory,
        tokenizer=tokenizer,
        config_xxh3_128="0123456789abcdef",
        vocabulary_tokens=len(WORDS),
        max_context_tokens=100,
        eos_token_ids=frozenset({2}),
        chat_template=TEMPLATE,
        generation_config=generation_config or {},
        special_tokens={"bos_token": "<s>"},
        chat_stop=("\nQ:",),
    )


def make_tenants(directory: Path, limits: Mapping[str, Limits]) -> tuple[str, dict[str, str]]:
    """Writes a tenants file with one key for each tenant. Returns its path and the keys."""
    path = directory / "tenants.toml"
    keys = {name: make_key() for name in limits}
    for name, of_tenant in limits.items():
        add_key(path, keys[name], name, of_tenant, datetime.date(2026, 1, 1))
    return str(path), {name: key.text for name, key in keys.items()}


@asynccontextmanager
async def running_edge(
    directory: Path, tracing: Tracing | None = None, of_model: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Edge]:
    """`of_model`: what the model's generation_config.json says."""
    async with NatsServer(directory / "nats") as nats, asyncio.timeout(100):
        site = await ScriptedSite.connect(nats.client_url)
        registry = CollectorRegistry()
        tasks = Tasks()
        config = GatewayConfig(site=SITE, models=("tiny",), control=NatsEndpoint(url=nats.client_url), **settings)
        context = ServiceContext(tasks, registry, tracing or Tracing())
        service = GatewayService(config, context, load_files=lambda _name: model_files(directory, of_model))
        await service.start()
        server = HttpServer(service.app(service_routes(service.ready, registry)), "127.0.0.1", 0)
        serving = asyncio.create_task(server.serve())
        url = f"http://127.0.0.1:{server.port}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S, trust_env=False) as http:
                yield Edge(site, service, server.port, registry, nats, http)
        finally:
            server.stop()
            await serving
            await tasks.cancel_all(DEADLINE_S)
            await service.stop()
            await site.close()
            assert not tasks.failed.done(), tasks.failed.result()


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path) as edge:
        yield edge
