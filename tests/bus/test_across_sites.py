"""The control bus between two sites: what crosses the link, and what its faults do."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusTimeoutError, NoRespondersError
from prfaas.bus.job_consumer import JobConsumer
from prfaas.bus.jobs import JobQueue
from prfaas.contracts import subjects
from prfaas.contracts.to_decode import PrefillDone
from prfaas.contracts.to_probe import Ping, Pong
from prfaas.site.sites import load_description
from prfaas.stack.launch import DEMO
from prfaas.stack.running_sites import RunningSites
from prfaas.wan import LinkChange, LinkState
from prfaas.wan.process import WanProcess
from tests.bus.jobs_at_hand import MODEL, SERVES, make_job, stored, take
from tests.bus.submitting import submit_once_joined

DEADLINE_S = 60.0


class TwoSites(NamedTuple):
    running: RunningSites
    link: WanProcess
    local: ControlBus
    remote: ControlBus


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[TwoSites]:
    async with RunningSites(load_description(DEMO), tmp_path) as running:
        buses = [await ControlBus.connect(running.endpoint(site, "ctl"), site) for site in ("local", "remote")]
        yield TwoSites(running, running.links["remote", "local"], *buses)
        for bus in buses:
            await bus.drain()


async def submit(sites: TwoSites, transfer_id: str = "t1") -> None:
    await submit_once_joined(sites.local, "remote", make_job(transfer_id), timeout_s=DEADLINE_S)


async def test_a_job_goes_to_the_other_sites_queue_and_its_progress_comes_back(sites: TwoSites) -> None:
    consumer = await JobConsumer.open(sites.remote, "remote", MODEL, "w", incarnation="i0", serves=SERVES)
    heard: asyncio.Queue[PrefillDone] = asyncio.Queue()
    progress = subjects.progress_from(make_job().reply_to, "remote", "prefill-worker")
    await sites.local.subscribe(progress, PrefillDone, heard.put_nowait)
    await submit(sites)
    taken = await take(consumer)
    done = PrefillDone(transfer_id="t1", attempt=1, nuid="n", worker="w", prefill_s=1.0, ended_unix_s=2.0)
    async with asyncio.timeout(DEADLINE_S):
        while heard.empty():
            await sites.remote.publish(progress, done)
            await asyncio.sleep(0.02)
    assert await heard.get() == done
    await taken.ack()


async def test_a_job_sent_into_a_stall_is_stored_once(sites: TwoSites) -> None:
    await JobConsumer.open(sites.remote, "remote", MODEL, "w", incarnation="i0", serves=SERVES)
    await submit(sites, "before")
    await sites.link.change(LinkChange(stall_s=3.0))  # longer than a try: the job is sent twice, and both arrive
    await submit(sites, "during")
    assert await stored(sites.remote) == 2


async def test_a_cut_link_is_said_at_once_and_heals(sites: TwoSites) -> None:
    await JobConsumer.open(sites.remote, "remote", MODEL, "w", incarnation="i0", serves=SERVES)
    await submit(sites, "before")
    await sites.link.change(LinkChange(state=LinkState.CUT))
    await sites.running.servers["local"].wait_for_leafs(0)
    with pytest.raises(NoRespondersError):
        await JobQueue(sites.local).submit("remote", make_job("during"), timeout_s=DEADLINE_S)
    await sites.link.change(LinkChange(state=LinkState.UP))
    await sites.running.wait_joined()
    await submit(sites, "after")
    assert await stored(sites.remote) == 2


async def test_a_half_open_link_is_a_timeout(sites: TwoSites) -> None:
    await JobConsumer.open(sites.remote, "remote", MODEL, "w", incarnation="i0", serves=SERVES)
    await submit(sites)
    await sites.link.change(LinkChange(state=LinkState.HALF_OPEN))
    with pytest.raises(BusTimeoutError, match=r"the job queue of site remote got no answer within 0\.3 s"):
        await JobQueue(sites.local).submit("remote", make_job("during"), timeout_s=0.3)


async def test_a_restart_of_either_server_is_survived(sites: TwoSites) -> None:
    async def pong(_ping: Ping) -> Pong:
        return Pong(site="local")

    await sites.local.serve(subjects.probe_echo("local"), Ping, pong)
    for name in ("local", "remote"):
        server = sites.running.servers[name]
        server.kill()
        await server.restart()
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    request = sites.remote.request(subjects.probe_echo("local"), Ping(source="remote"), Pong, 0.5)
                    assert await request == Pong(site="local")
                    break
                except (NoRespondersError, BusTimeoutError):
                    await asyncio.sleep(0.02)
