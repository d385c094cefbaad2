"""Dashboard and alerts name metrics that a running stack exposes; where Prometheus is, it scrapes them and agrees."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from infra.observability import check, dashboard, expressions
from infra.observability.binaries import find, on_machine
from load.emulated_stack import two_sites
from prfaas.stack.stack import Stack
from prfaas.stack.targets import targets, write_targets
from tests.machine import need_package


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with Stack(two_sites(remote_workers=1, rate_mbit=200.0), tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture
def prometheus() -> None:
    get_it = "`python -m infra.observability.binaries` fetches it"
    need_package("Prometheus", lambda: on_machine("prometheus"), lambda: find("prometheus"), get_it)


@pytest.mark.asyncio(loop_scope="module")
async def test_every_metric_that_is_watched_is_exposed(running: Stack) -> None:
    families: set[str] = set()
    async with httpx.AsyncClient(timeout=30.0) as client:
        for process in running.services.values():
            page = (await client.get(f"http://127.0.0.1:{process.http_port}/metrics")).text
            families |= {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE ")}
    watched = [*dashboard.queries(), *(rule.expr for rule in expressions.rules())]
    assert expressions.unknown(watched, families) == {}


@pytest.mark.usefixtures("prometheus")
@pytest.mark.asyncio(loop_scope="module")
async def test_prometheus_finds_nothing_wrong(running: Stack, tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    write_targets(running, path)
    assert await check.check(path, len(targets(running))) == []
