"""Faults of a world: what each does, and when it is over."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from load.worlds.clockwork import Process
from load.worlds.gateway import Gateway
from load.worlds.plan import HOME, Fault
from load.worlds.surroundings import Surroundings
from prfaas.contracts.to_prefill import PrefillJob

REDIAL_S = 0.2


class Faults:
    def __init__(self, world: Surroundings, start: Callable[[str], None]) -> None:
        """`start` starts a process under a name."""
        self._world = world
        self._start = start
        self.over_at_s = max((fault.at_s + fault.for_s + 1.0 for fault in world.plan.faults), default=0.0)
        """Moment at which the last fault so far is repaired."""

    def begin(self, fault: Fault) -> None:
        world = self._world
        kind, target, for_s = fault.kind, fault.target, fault.for_s
        match kind:
            case "kill":
                self.kill(target, for_s)
            case "stop" | "unplug" | "drop":
                process = world.network.processes.get(target)
                if process is not None:
                    {"stop": self.stop, "unplug": self.unplug, "drop": self._drop}[kind](process, for_s)
            case "cut" | "half_open" | "stall" | "slow":
                self._disturb_link(kind, target, for_s)
            case "flip_delivery":
                world.store.flip_delivered += 1
            case "flip_stored":
                world.store.flip_stored += 1
            case "forge":
                world.jobs[target].queued.forge = self._forged
            case "bucket_full":
                world.store.full = True
                self._later(for_s, setattr, world.store, "full", False)
            case "server_restart":
                self._restart_server(target, min(for_s, 1.0))

    def kill(self, name: str, down_s: float) -> None:
        """Ends a process. Another one comes up under its name."""
        world = self._world
        process = world.network.processes.get(name)
        if process is None:
            return
        if isinstance(process, Gateway):
            for client in process.clients:
                client.end("torn")
        process.kill()
        world.network.disconnect(process)
        world.store.process_died(process)
        self._over_in(down_s)
        self._later(down_s, self._start, name)

    def stop(self, process: Process, for_s: float) -> None:
        process.stop(for_s)
        self._later(for_s, self._wake, process)

    def unplug(self, process: Process, for_s: float) -> None:
        """Breaks its connections to the server, which it dials again."""
        now_s = self._world.clockwork.now_s
        process.reconnects_at_s = max(process.reconnects_at_s, now_s + for_s)
        if process.connected:
            process.connected = False
            process.connection += 1
            self._tell(process, "connection_lost")
        self._over_in(for_s)
        self._later(for_s, self._plug_in, process)

    def _plug_in(self, process: Process) -> None:
        if process.connected or not process.alive or self._world.clockwork.now_s < process.reconnects_at_s - 1e-9:
            return
        if process.site in self._world.network.server_down:
            self.unplug(process, REDIAL_S)
            return
        process.connected = True
        self._tell(process, "connection_restored")

    def _wake(self, process: Process) -> None:
        if process.alive:
            process.wake()
            self._tell(process, "woken")

    def _tell(self, process: Process, method: str) -> None:
        call = getattr(process, method, None)
        if call is not None:
            process.call_soon(call)

    def _drop(self, process: Process, for_s: float) -> None:
        """Lets the server drop messages on their way to a process, as it does with a slow consumer."""
        self._world.network.drops[process.name] = 0.3
        self._later(for_s, self._world.network.drops.pop, process.name, None)

    def _disturb_link(self, kind: str, remote: str, for_s: float) -> None:
        world = self._world
        link = world.network.links[frozenset((HOME, remote))]
        match kind:
            case "stall":
                link.stalled_until_s = max(link.stalled_until_s, world.clockwork.now_s + for_s)
            case "slow":
                link.slowness = 20.0
                self._later(for_s, setattr, link, "slowness", 1.0)
            case _:
                link.cut, link.silent = True, kind == "half_open"
                link.connection += 1
                self._later(for_s, setattr, link, "cut", False)

    def _restart_server(self, site: str, for_s: float) -> None:
        """Takes a site's server down. Its memory is lost, and all connections break."""
        world = self._world
        world.network.server_down.add(site)
        self._later(for_s, world.network.server_down.discard, site)
        world.jobs[site].queued.lose_memory()
        world.jobs[site].dispatched.lose_memory()
        if site == HOME:
            world.store.lose_memory()
            world.lease_bucket.lose_memory()
        for link_sites, link in world.network.links.items():
            if site in link_sites:
                link.connection += 1
        for process in list(world.network.processes.values()):
            if process.site == site:
                self.unplug(process, for_s + 0.05 + 0.2 * world.chance.random())

    def _forged(self, job: PrefillJob) -> PrefillJob:
        """Changes an open field of a sealed job. What a server can do with a plain one no worker could tell."""
        if not job.sealed:
            return job
        self._world.forged.add(job.transfer.nuid)
        return self._world.chance.choice((
            replace(job, timeout_s=job.timeout_s + 1.0),
            replace(job, admitted=not job.admitted),
            replace(job, priority=job.priority + 1),
            replace(job, transfer=replace(job.transfer, from_token=job.transfer.from_token + 1)),
        ))  # fmt: skip

    def _later(self, delay_s: float, call: Callable[..., Any], *args: object) -> None:
        clockwork = self._world.clockwork
        clockwork.call_at(clockwork.now_s + delay_s, None, call, *args)

    def _over_in(self, delay_s: float) -> None:
        self.over_at_s = max(self.over_at_s, self._world.clockwork.now_s + delay_s + 1.0)
