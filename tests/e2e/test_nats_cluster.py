"""A site whose nats-server is a cluster of three: each is killed and started again under load, and no request is lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openai import AsyncOpenAI

from load.emulated_stack import MODEL, many_sites, right_answer
from prfaas.site.sites import Description, Server
from prfaas.stack.stack import Stack

HOME, FAR = "home", "far"
OUTPUT_TOKENS = 8
DEADLINE_S = 120.0
SERVERS = 3


def clustered(description: Description) -> Description:
    """Returns the description with three servers in the pd site."""
    sites = [
        msgspec.structs.replace(site, servers=(Server(),) * SERVERS) if site.name == HOME else site for site in description.sites
    ]
    changed = msgspec.structs.replace(description, sites=tuple(sites))
    changed.validate()
    return changed


DESCRIPTION = clustered(many_sites([HOME], {FAR: (HOME,)}, policy="remote_all"))


class Load:
    """Requests one after another in two lanes until it is ended, each compared with the right answer."""

    def __init__(self, stack: Stack) -> None:
        self.done = 0
        self.wrong: list[str] = []
        self._stack = stack
        self._ended = False

    async def lane(self, lane: int) -> None:
        url = f"{self._stack.gateway_url(HOME)}/v1"
        headers = {"x-prfaas-ttft-deadline-s": str(DEADLINE_S)}
        async with AsyncOpenAI(
            base_url=url, api_key="none", max_retries=0, timeout=DEADLINE_S, default_headers=headers
        ) as client:
            while not self._ended:
                prompt = [(index * (2 * self.done + lane + 3)) % 251 for index in range(1200)]
                try:
                    answer = await client.completions.create(model=MODEL, prompt=prompt, max_tokens=OUTPUT_TOKENS, temperature=0)
                    if answer.choices[0].text != right_answer(self._stack.description, prompt, OUTPUT_TOKENS):
                        self.wrong.append("another answer")
                except Exception as error:
                    self.wrong.append(repr(error))
                self.done += 1

    async def passes(self, count: int) -> None:
        """Returns when `count` more requests are done."""
        wanted = self.done + count
        async with asyncio.timeout(DEADLINE_S):
            while self.done < wanted:
                await asyncio.sleep(0.05)

    def end(self) -> None:
        self._ended = True


@contextlib.asynccontextmanager
async def load_on(stack: Stack) -> AsyncIterator[Load]:
    load = Load(stack)
    async with asyncio.TaskGroup() as tasks:
        for lane in range(2):
            tasks.create_task(load.lane(lane))
        try:
            yield load
        finally:
            load.end()


async def streams_of(stack: Stack) -> dict[str, dict[str, Any]]:
    """Returns the configuration of each stream of the site, by name."""
    found: dict[str, dict[str, Any]] = {}
    for server in stack.sites.servers_of(HOME):
        page = await server.monitor("jsz?accounts=1&streams=1&config=1")
        for account in page["account_details"]:
            found |= {stream["name"]: stream["config"] for stream in account.get("stream_detail") or []}
    return found


@pytest.mark.timeout(600)
async def test_each_server_is_killed_and_started_again_under_load_and_no_request_is_lost(tmp_path: Path) -> None:
    async with Stack(DESCRIPTION, tmp_path) as stack:
        async with load_on(stack) as load:
            await load.passes(4)
            for server in stack.sites.servers_of(HOME):
                server.kill()
                await load.passes(4)
                await server.start()
                await server.wait_current()
                await load.passes(2)
        assert load.wrong == [], (load.wrong, load.done)
        await stack.sites.wait_joined()
        streams = await streams_of(stack)
        replicas = {name: config["num_replicas"] for name, config in streams.items()}
        assert {name for name, count in replicas.items() if count == SERVERS} >= {"KV_workers-home", "KV_links-home"}
        # KV is kept once, in memory; all else on every server.
        for name, count in replicas.items():
            assert count == (1 if name.startswith("OBJ_") else SERVERS), name
            assert not name.startswith("OBJ_") or streams[name]["storage"] == "memory"
        assert any(name.startswith("OBJ_") for name in streams) and any("jobs" in name.lower() for name in streams), streams
