"""Leftovers of requests: KV in buckets, jobs in queues, consumers, streams, file descriptors, memory."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import psutil

from load.chaos.world import World
from load.emulated_stack import HOME
from prfaas.bus.bulk.bucket import api, stream_name
from prfaas.bus.bulk.wire import LaneError
from prfaas.contracts import subjects
from prfaas.stack.stack import Stack
from prfaas.transfer.object_consumer import INACTIVE_S

KV_BOUND_S = INACTIVE_S + 15.0 + 5.0
"""Bound within which KV of a dead receiver is deleted: its consumer's life, grace and interval of the sweep, and slack."""


class KVLeaks:
    """KV objects by the moment at which they were first seen after their request had ended; late ones are leaks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._buckets = [subjects.kv_bucket(HOME, site.name) for site in world.stack.description.sites]
        self._due_at: dict[str, float] = {}
        self._where: dict[str, str] = {}
        self.leaked: dict[str, str] = {}
        """Subject of each object that outlived its bound, and the cell that had left it."""
        self.leaked_bytes = 0

    async def look(self, cell: str) -> int:
        """Returns how many objects are left. Those that are new were left by this cell. No request may run meanwhile."""
        now_s = time.monotonic()
        found: dict[str, int] = {}
        for bucket in self._buckets:
            found |= await self._objects(bucket)
        for subject in set(self._due_at) - set(found):
            del self._due_at[subject], self._where[subject]
        for subject in found:
            self._due_at.setdefault(subject, now_s + KV_BOUND_S)
            self._where.setdefault(subject, cell)
            if now_s > self._due_at[subject] and subject not in self.leaked:
                self.leaked[subject] = self._where[subject]
                self.leaked_bytes += found[subject]
        return len(found)

    async def _objects(self, bucket: str) -> dict[str, int]:
        """Returns bytes by subject; an object's share of the bucket is by messages."""
        try:
            info = await api(self._world.bulk, f"STREAM.INFO.{stream_name(bucket)}", {"subjects_filter": ">"})
        except (LaneError, TimeoutError):
            return {}
        state = info["state"]
        counts: dict[str, int] = state.get("subjects") or {}
        return {subject: state["bytes"] * count // max(1, state["messages"]) for subject, count in counts.items()}


class Inventory(NamedTuple):
    """Counts that must be the same before and after, while no request runs."""

    streams: dict[str, int]
    """Consumers by stream, of both sites. Watchers of KV_ buckets are left out: the server drops those of a dead process minutes
    later, and none costs more than its name."""
    jobs: int
    """Jobs in queues."""
    descriptors: dict[str, int]
    """Open files by process."""


async def take_inventory(stack: Stack) -> Inventory:
    streams: dict[str, int] = {}
    jobs = 0
    for site, server in stack.sites.servers.items():
        page = await server.monitor("jsz?accounts=1&streams=1")
        for account in page.get("account_details") or []:
            for stream in account.get("stream_detail") or []:
                if not stream["name"].startswith("KV_"):
                    streams[f"{site}.{stream['name']}"] = stream["state"]["consumer_count"]
                jobs += stream["state"]["messages"] * stream["name"].startswith(("JOBS_", "DISPATCHED_"))
    return Inventory(streams, jobs, {name: psutil.Process(pid).num_fds() for name, pid in pids_of(stack).items()})


def pids_of(stack: Stack) -> dict[str, int]:
    """Returns the pids of services, servers and links, by name."""
    services = {f"{site}.{name}": process.pid for (site, name), process in stack.services.items() if process.exit_code is None}
    servers = {f"{site}.nats-server": server.pid for site, server in stack.sites.servers.items() if server.running}
    return services | servers


class MemorySample(msgspec.Struct, frozen=True):
    at_s: float
    rss_bytes: int


def rss_of(pids: Mapping[str, int]) -> dict[str, int]:
    """Returns resident bytes by process; one that has just ended is left out."""
    found: dict[str, int] = {}
    for name, pid in pids.items():
        try:
            found[name] = psutil.Process(pid).memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return found


def more_than(before: Inventory, after: Inventory, slack_descriptors: int) -> dict[str, Any]:
    """Returns what there is more of than before: consumers, jobs, and descriptors beyond the slack."""
    more: dict[str, Any] = {
        f"consumers of {name}": count - before.streams.get(name, 0)
        for name, count in after.streams.items()
        if count > before.streams.get(name, 0)
    }
    more |= {
        f"descriptors of {name}": count - before.descriptors[name]
        for name, count in after.descriptors.items()
        if name in before.descriptors and count > before.descriptors[name] + slack_descriptors
    }
    if after.jobs > before.jobs:
        more["jobs"] = after.jobs - before.jobs
    return more
