"""Processes of the version before beside those of today, in the order of an upgrade: no request is lost, all answers are right.

There is no release yet: the version before is the commit whose messages tests/contracts/version_before.json holds."""

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from load.emulated_stack import FAR, HOME, MODEL, every_service_twice, right_answer, two_sites
from prfaas.site.sites import Role
from prfaas.stack.free_port import free_port
from prfaas.stack.service_process import ServiceProcess
from prfaas.stack.stack import Stack
from tests.contracts import version_before
from tests.machine import missing
from tests.source_tree import ROOT

DEADLINE_S = 120.0
OUTPUT_TOKENS = 4
UPGRADE = (
    (Role.DECODE_WORKER, HOME),
    (Role.PREFILL_WORKER, HOME),
    (Role.PREFILL_WORKER, FAR),
    (Role.BANDWIDTH_PROBE, HOME),
    (Role.BANDWIDTH_PROBE, FAR),
    (Role.SCHEDULER, FAR),
    (Role.SCHEDULER, HOME),
    (Role.GATEWAY, HOME),
)
"""Order of docs/deploy.md. nats-server comes first there, and is no code of ours."""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Returns the environment in which services are those of the version before."""
    commit = version_before.commit()
    known = subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, check=False)
    if known.returncode:
        missing(f"the sources of commit {commit} are not there", "a checkout with its history has them", _no_history())
    folder = tmp_path_factory.mktemp("before")
    environ = version_before.lay_out(commit, folder)
    shown = "import prfaas, prfaas_gateway; print(prfaas.__file__, prfaas_gateway.__file__)"
    loaded = subprocess.run(
        [sys.executable, "-c", shown], env=os.environ | environ, capture_output=True, text=True, check=True, timeout=60
    )
    assert all(Path(name).is_relative_to(folder) for name in loaded.stdout.split()), loaded.stdout
    return environ


def _no_history() -> str | None:
    """Returns why this checkout cannot have older commits; None when it has its history."""
    command = ["git", "rev-parse", "--is-shallow-repository"]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"true": "it is a shallow clone", "false": None}.get(asked.stdout.strip(), "it is no clone of the repository")


class Asking:
    """Requests that are asked one after another, in the background."""

    def __init__(self, stack: Stack) -> None:
        self.outcomes: list[str] = []
        self._stack = stack
        self._seeds: Iterator[int] = itertools.count(3)

    async def ask(self) -> None:
        seed = next(self._seeds)
        prompt = [(index * seed) % 251 for index in range(1200)]
        body = {"model": MODEL, "prompt": prompt, "max_tokens": OUTPUT_TOKENS, "temperature": 0}
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            url = f"{self._stack.gateway_url(HOME)}/v1/completions"
            answer = await client.post(url, json=body, headers={"x-prfaas-ttft-deadline-s": "60"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["text"] == right_answer(self._stack.description, prompt, OUTPUT_TOKENS)
        self.outcomes.append(answer.headers["x-prfaas-outcome"])

    async def until_offloaded(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.ask()
            while self.outcomes[-1] != "offloaded":
                await self.ask()

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        """Keeps asking while the block runs. Raises what a request raised."""
        stopped = False

        async def keep_asking() -> None:
            while not stopped:
                await self.ask()

        asking = asyncio.create_task(keep_asking())
        try:
            yield
        finally:
            stopped = True
            await asking


@pytest.mark.timeout(600)
async def test_an_upgrade_process_by_process_loses_no_request(old: Mapping[str, str], tmp_path: Path) -> None:
    description = every_service_twice(two_sites(remote_workers=2, rate_mbit=200.0), free_port())
    async with Stack(description, tmp_path, environ=old) as stack:
        asking = Asking(stack)
        await asking.until_offloaded()
        for role, site in UPGRADE:
            for process in stack.processes(site, role):
                count = len(asking.outcomes)
                async with asking.under_way():
                    await replace(process)
                await asking.until_offloaded()
                print(f"{process.whole_name} of {site} is of today: {asking.outcomes[count:]}")


async def replace(process: ServiceProcess) -> None:
    """Stops a process in good order and starts today's in its place."""
    assert await process.stop(DEADLINE_S) == 0
    await process.run_in({}).configure({"http-port": process.http_port}).spawn()
    await process.wait_ready(DEADLINE_S)
