"""Table of what may be said and heard in the attacked pd site, tried with every key: the table of docs/security.md.

`python -m tests.attacks.who_can` prints it.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg

from prfaas.contracts import subjects
from prfaas.stack.running_sites import RunningSites
from tests.attacks.three_sites import ACTORS, FAR, HOME, OTHER, Actor, description
from tests.stack.plain_client import connect

DEADLINE_S = 60.0
_JOB = "jobs.{}.{}.prefill.m"
_PROGRESS = subjects.prefill_progress(HOME, "d0")
_EVENTS = subjects.events(HOME, "gateway")


class Act(NamedTuple):
    """A subject that somebody may want to publish to or to hear."""

    what: str
    account: str
    subject: str
    receiver: str = HOME
    """Site at whose server it does its work."""


SAID = (
    Act("ask for a placement", "ctl", subjects.place(HOME)),
    Act("ask the scheduler for its state", "ctl", subjects.scheduler_state(HOME)),
    Act("take the lead of local's schedulers", "ctl", subjects.stored_entry(subjects.leader_bucket(HOME), "scheduler")),
    Act("hand a request to decode worker d0", "ctl", subjects.generate(HOME, "d0")),
    Act("cancel a request of d0", "ctl", subjects.cancel_generate(HOME, "d0")),
    Act("send tokens as d0", "ctl", subjects.events_from(_EVENTS, "d0")),
    Act("send tokens as another decode worker", "ctl", subjects.events_from(_EVENTS, "d1")),
    Act("report an attempt's end", "ctl", subjects.attempts(HOME)),
    Act("report progress as local p0", "ctl", subjects.progress_from(_PROGRESS, HOME, "p0")),
    Act("report progress as remote p0", "ctl", subjects.progress_from(_PROGRESS, FAR, "p0")),
    Act("report progress as another worker of remote", "ctl", subjects.progress_from(_PROGRESS, FAR, "p1")),
    Act("announce d0", "ctl", subjects.entry(subjects.workers_bucket(HOME), f"{HOME}.decode.d0")),
    Act("announce local p0", "ctl", subjects.entry(subjects.workers_bucket(HOME), f"{HOME}.prefill.p0")),
    Act("announce remote p0", "ctl", subjects.entry(subjects.workers_bucket(HOME), f"{FAR}.prefill.p0")),
    Act("announce another worker of remote", "ctl", subjects.entry(subjects.workers_bucket(HOME), f"{FAR}.prefill.p1")),
    Act("announce a decode worker of remote", "ctl", subjects.entry(subjects.workers_bucket(HOME), f"{FAR}.decode.d0")),
    Act("announce the cache of d0", "ctl", subjects.blocks(HOME, HOME, "decode", "d0")),
    Act("announce the cache of remote p0", "ctl", subjects.blocks(HOME, FAR, "prefill", "p0")),
    Act("announce the link from remote", "ctl", subjects.entry(subjects.links_bucket(HOME), f"{FAR}.{HOME}")),
    Act("announce the link from east", "ctl", subjects.entry(subjects.links_bucket(HOME), f"{OTHER}.{HOME}")),
    Act("change the role of d0", "ctl", subjects.change_role(HOME, "decode", "d0")),
    Act("cancel prefills of local for local", "ctl", subjects.cancel_prefill(HOME, HOME)),
    Act("queue a job of local in local", "ctl", _JOB.format(HOME, HOME)),
    Act("queue a job of local in remote", "ctl", _JOB.format(FAR, HOME), FAR),
    Act("queue a job of east in remote", "ctl", _JOB.format(FAR, OTHER), FAR),
    Act("say that local p0 is ready for a job", "ctl", subjects.readiness(HOME, "p0")),
    Act("say that another worker of local is ready", "ctl", subjects.readiness(HOME, "p1")),
    Act("say that remote p0 is ready for a job", "ctl", subjects.readiness(FAR, "p0"), FAR),
    Act("dispatch a job to local p0", "ctl", subjects.dispatched_jobs(HOME, "p0")),
    Act("dispatch a job to another worker of local", "ctl", subjects.dispatched_jobs(HOME, "p1")),
    Act("dispatch a job to remote p0", "ctl", subjects.dispatched_jobs(FAR, "p0"), FAR),
    Act("tell d0 what became of a job, as the scheduler of remote", "ctl", subjects.progress_from(_PROGRESS, FAR, "scheduler")),
    Act("announce the queue of local", "ctl", subjects.queue_state(HOME, HOME)),
    Act("announce the queue of remote", "ctl", subjects.queue_state(HOME, FAR)),
    Act("announce the queue of east", "ctl", subjects.queue_state(HOME, OTHER)),
    Act("cancel prefills of remote for local", "ctl", subjects.cancel_prefill(FAR, HOME), FAR),
    Act("cancel prefills of remote for east", "ctl", subjects.cancel_prefill(FAR, OTHER), FAR),
    Act("change the role of remote p0", "ctl", subjects.change_role(FAR, "prefill", "p0"), FAR),
    Act("take a share of remote's links", "ctl", subjects.probe_egress(FAR), FAR),
    Act("answer a local process as a local one", "ctl", f"{subjects.replies(HOME, HOME, 'scheduler')}.c.t"),
    Act("answer a local process as remote", "ctl", f"{subjects.replies(HOME, FAR, 'scheduler')}.c.t"),
    Act("answer a process of remote as east", "bulk", f"{subjects.replies(FAR, OTHER, 'p0')}.c.t", FAR),
    Act("write KV made in local", "bulk", f"$O.{subjects.kv_bucket(HOME, HOME)}.C.n"),
    Act("put KV into an inbox of d0", "bulk", subjects.kv_direct(subjects.kv_bucket(HOME, HOME), "i", "n")),
    Act("put KV made in remote into an inbox of d0", "bulk", subjects.kv_direct(subjects.kv_bucket(HOME, FAR), "i", "n")),
    Act("write KV made in remote", "bulk", f"$O.{subjects.kv_bucket(HOME, FAR)}.C.n"),
    Act("write KV made in east", "bulk", f"$O.{subjects.kv_bucket(HOME, OTHER)}.C.n"),
    Act("ask local p0 for a prefix, as local", "ctl", subjects.send_prefix(HOME, "p0", HOME)),
    Act("ask local p0 for a prefix, as remote", "ctl", subjects.send_prefix(HOME, "p0", FAR)),
    Act("ask remote p0 for a prefix, as local", "ctl", subjects.send_prefix(FAR, "p0", HOME), FAR),
    Act("ask remote p0 for a prefix, as east", "ctl", subjects.send_prefix(FAR, "p0", OTHER), FAR),
    Act("write a prefix that is pulled within local", "bulk", f"$O.{subjects.pull_bucket(HOME, HOME)}.C.n"),
    Act("write a prefix that local pulls from remote", "bulk", f"$O.{subjects.pull_bucket(HOME, FAR)}.C.n"),
    Act("write a prefix that is pulled within remote", "bulk", f"$O.{subjects.pull_bucket(FAR, FAR)}.C.n", FAR),
    Act("send a train as remote", "bulk", subjects.probe_train(HOME, FAR)),
)
HEARD = (
    Act("hear prompts on their way to d0", "ctl", subjects.generate(HOME, "d0")),
    Act("hear answers on their way to the gateway", "ctl", subjects.events_from(_EVENTS, "d0")),
    Act("hear jobs of local in local", "ctl", _JOB.format(HOME, HOME)),
    Act("hear jobs that are dispatched to p0", "ctl", subjects.dispatched_jobs(HOME, "p0")),
    Act("hear which workers of local are ready", "ctl", subjects.readiness(HOME, "p0")),
    Act("hear progress of prefills", "ctl", subjects.progress_from(_PROGRESS, HOME, "p0")),
    Act("hear the workers of local", "ctl", subjects.entry(subjects.workers_bucket(HOME), f"{HOME}.decode.d0")),
    Act("hear replies to the gateway", "ctl", f"{subjects.replies(HOME, HOME, 'gateway')}.c.t"),
    Act("hear replies to local p0", "ctl", f"{subjects.replies(HOME, HOME, 'p0')}.c.t"),
    Act("hear KV made in local", "bulk", f"$O.{subjects.kv_bucket(HOME, HOME)}.C.n"),
    Act("hear KV on its way to an inbox of d0", "bulk", subjects.kv_direct(subjects.kv_bucket(HOME, HOME), "i", "n")),
    Act("hear KV made in remote", "bulk", f"$O.{subjects.kv_bucket(HOME, FAR)}.C.n"),
    Act("hear prefixes that are pulled within local", "bulk", f"$O.{subjects.pull_bucket(HOME, HOME)}.C.n"),
    Act("hear KV that d0 is handed", "bulk", f"{subjects.replies(HOME, HOME, 'd0')}.c.t"),
)
Can = dict[tuple[str, str], bool]
"""Act and actor -> whether the actor can do the act."""


async def said(sites: RunningSites, account: str, actor: Actor) -> dict[str, bool]:
    """Tells which acts reach the server at which they would do their work."""
    acts = [act for act in SAID if act.account == account]
    endpoint = actor.endpoint(sites, account)
    if endpoint is None:
        return {act.what: False for act in acts}
    heard: set[tuple[str, str]] = set()

    async def watch(site: str) -> Client:
        async def note(message: Msg) -> None:
            if message.data == actor.name.encode():
                heard.add((site, message.subject))

        observer = await connect(sites.endpoint(site, account))
        for subject in {act.subject for act in acts if act.receiver == site}:
            await observer.subscribe(subject, cb=note)
        await observer.flush()
        return observer

    async with contextlib.AsyncExitStack() as stack:
        for site in (HOME, FAR):
            stack.push_async_callback((await watch(site)).close)
        speaker = await connect(endpoint)
        stack.push_async_callback(speaker.close)
        await settled(sites, account)
        for act in acts:
            await speaker.publish(act.subject, actor.name.encode())
        await speaker.flush()
        await settled(sites, account)
    return {act.what: (act.receiver, act.subject) in heard for act in acts}


async def heard(sites: RunningSites, account: str, actor: Actor) -> dict[str, bool]:
    """Tells which messages of the attacked site reach the actor."""
    acts = [act for act in HEARD if act.account == account]
    endpoint = actor.endpoint(sites, account)
    if endpoint is None:
        return {act.what: False for act in acts}
    came: set[str] = set()

    async def note(message: Msg) -> None:
        came.add(message.subject)

    async with contextlib.AsyncExitStack() as stack:
        listener = await connect(endpoint)
        stack.push_async_callback(listener.close)
        for act in acts:
            await listener.subscribe(act.subject, cb=note)
        await listener.flush()
        await settled(sites, account)
        speaker = await connect(sites.endpoint(HOME, account))
        stack.push_async_callback(speaker.close)
        for act in acts:
            await speaker.publish(act.subject, b"")
        await speaker.flush()
        await settled(sites, account)
        await listener.flush()
    return {act.what: act.subject in came for act in acts}


async def settled(sites: RunningSites, account: str) -> None:
    """Returns when what was sent over the links before has arrived: a marker follows it on each, in both directions."""
    for pd in (HOME, OTHER):
        for asking, answering in ((FAR, pd), (pd, FAR)):
            await crossed(sites, account, asking, answering)


async def crossed(sites: RunningSites, account: str, asking: str, answering: str) -> None:
    marker = f"{subjects.replies(answering, asking, 'marker')}.c.t"
    arrived = asyncio.Event()

    async def note(_message: Msg) -> None:
        arrived.set()

    there, here = await connect(sites.endpoint(answering, account)), await connect(sites.endpoint(asking, account))
    await there.subscribe(marker, cb=note)
    await there.flush()
    async with asyncio.timeout(DEADLINE_S):
        while not arrived.is_set():  # the interest in it has yet to cross
            await here.publish(marker)
            await here.flush()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), 0.02)
    await there.close()
    await here.close()


async def everything(sites: RunningSites) -> Can:
    """All acts of all actors, one after another."""
    can: Can = {}
    for actor in ACTORS:
        for account in ("ctl", "bulk"):
            for what, works in (await said(sites, account, actor) | await heard(sites, account, actor)).items():
                can[what, actor.name] = works
    return can


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[RunningSites]:
    """The servers of three sites; no services."""
    async with RunningSites(description(), directory) as sites:
        yield sites


async def table() -> str:
    """The table, from servers that are started for it."""
    with tempfile.TemporaryDirectory() as directory:
        async with running(Path(directory)) as sites:
            return markdown(await everything(sites))


def markdown(can: Can) -> str:
    """The table as docs/security.md has it."""
    names = [actor.name for actor in ACTORS]
    rows = [f"| | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
    for act in (*SAID, *HEARD):
        rows.append(f"| {act.what} | {' | '.join('yes' if can[act.what, name] else '' for name in names)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(asyncio.run(table()))
