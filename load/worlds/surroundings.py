"""State that all processes of a world share: plan, clock, network, servers, and the notes by which the world is judged."""

import random
from collections.abc import Callable

from load.worlds.client import Client
from load.worlds.clockwork import Clockwork, Process
from load.worlds.control_bus import LeaseBucket
from load.worlds.job_queue import SiteJobs
from load.worlds.model import LAYOUT
from load.worlds.network import Link, Network
from load.worlds.object_store import ObjectStore
from load.worlds.plan import GATEWAY, HOME, Plan
from load.worlds.presence import Presence
from load.worlds.reigns import Reigns


class Surroundings:
    def __init__(self, plan: Plan, kill: Callable[[str, float], None]) -> None:
        """`kill` ends the process of a name, and starts another one after some seconds."""
        self.plan = plan
        self.chance = random.Random(plan.seed ^ 0x5EED)
        self.violations: list[str] = []
        self.clockwork = Clockwork(self._failed)
        self.network = Network(self.clockwork, self.chance)
        self.store = ObjectStore(self.clockwork, self.network, self.chance, self.violations)
        self.presence = Presence(self.clockwork, self.network, (*plan.schedulers, GATEWAY))
        self.lease_bucket = LeaseBucket()
        self.reigns = Reigns(plan, self.clockwork, self.lease_bucket, self.violations)
        sites = (HOME, *plan.remotes)
        self.jobs = {site: SiteJobs(self.clockwork, self.network, site, plan.queue_jobs) for site in sites}
        self.network.links = {frozenset((HOME, remote)): Link(plan.link_delay_s) for remote in plan.remotes}
        self.kv_points = LAYOUT.size_points(64)
        self.forged: set[str] = set()
        """Names of objects whose job was changed on its way."""
        self.lies: set[str] = set()
        """Names of objects whose KV is wrong."""
        self.clients: list[Client] = []
        self.deaths: dict[str, list[str]] = {}
        """Prefill workers that died of each leg of a poisonous request."""
        self.broken: list[str] = []
        """Legs whose prefill failed in the engine, once for each time."""
        self.failed_attempts: list[tuple[str, str]] = []
        """(object, code) of each attempt that has failed."""
        self.authors: dict[str, set[tuple[str, str]]] = {}
        """Prefill workers that wrote into each object."""
        self._kill = kill
        self._poisons = {request.name: request.poison for request in plan.requests if request.poison}
        self._number = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def poison_of(self, request_id: str) -> str:
        """Returns the poison of a request, by the id of any of its legs."""
        return self._poisons.get(request_id.partition("-")[0], "")

    def prefill_workers_of(self, site: str) -> list[str]:
        return [worker.name for worker in self.plan.prefill_workers if worker.site == site]

    def died_of(self, worker: str, request_id: str) -> None:
        """Kills a prefill worker whose prompt is deadly. Its supervisor starts it again."""
        self.deaths.setdefault(request_id, []).append(worker)
        self.clockwork.call_at(self.clockwork.now_s, None, self._kill, worker, 1.0)

    def _failed(self, process: Process, error: Exception) -> None:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        line = "" if where is None else f" ({where.tb_frame.f_code.co_filename.rpartition('/')[2]}:{where.tb_lineno})"
        self.violations.append(f"{process.name} raised {type(error).__name__}: {error}{line}")
