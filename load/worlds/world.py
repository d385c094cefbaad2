"""A world from a plan: processes, servers, links and clients, faults at their moments, and the end when nothing is left."""

from dataclasses import replace
from typing import Any

from load.worlds.client import Client
from load.worlds.decode_worker import DecodeWorker
from load.worlds.dispatcher import Dispatcher
from load.worlds.faults import Faults
from load.worlds.gateway import Gateway
from load.worlds.generation import serve
from load.worlds.invariants import GOOD, judged, judged_attempts, leftovers
from load.worlds.plan import GATEWAY, HOME, QUIET_AT_S, Plan, RequestPlan, dispatcher_of
from load.worlds.prefill_worker import PrefillWorker
from load.worlds.scheduler import Scheduler
from load.worlds.surroundings import Surroundings
from prfaas.contracts.to_decode import Sampling
from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas.transfer.object_consumer import INACTIVE_S
from prfaas_scheduler.breaker import MAX_PAUSE_S

ESTIMATE_EVERY_S = 1.0
KEPT_S = 20.0 + INACTIVE_S + 10.0 + 5.0 + 5.0
"""Longest stay of anything after the last request: a deadline that was lost, then the bucket's consumer, grace and sweep."""
LOOK_EVERY_S = 1.0
SETTLED_S = 1.0
"""Time after the last repair until all that goes by itself must go again."""
PROBES = 3
"""Most requests after all faults, of which one must be served as if there had been none: a breaker tries once a pause."""


class World(Surroundings):
    """One run. `violations` says what went wrong."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, lambda name, down_s: self.faults.kill(name, down_s))
        self.probes: list[Client] = []
        self._undisturbed: dict[str, float] | None = None
        """Times to first tokens in the same world without its faults, once they were asked for."""
        self._sites = {GATEWAY: HOME} | dict.fromkeys(plan.schedulers, HOME)
        self._sites |= {dispatcher_of(site): site for site in plan.dispatchers}
        self._sites |= {worker.name: worker.site for worker in (*plan.prefill_workers, *plan.decode_workers)}
        self._decoders = {worker.name for worker in plan.decode_workers}
        self._skews = {name: self.chance.choice((0.0, 0.0, 30.0, -3600.0)) for name in self._sites}
        self.faults = Faults(self, self.start)

    def start(self, name: str) -> None:
        """Starts a process under its name, as another incarnation."""
        kinds: dict[str, Any] = {GATEWAY: Gateway} | dict.fromkeys(self.plan.schedulers, Scheduler)
        kinds |= {dispatcher_of(site): Dispatcher for site in self.plan.dispatchers}
        kind = kinds.get(name) or (DecodeWorker if name in self._decoders else PrefillWorker)
        process = kind(
            self,
            f"i{self.next_number()}",
            name=name,
            site=self._sites[name],
            monotonic_offset_s=1000.0 * self.chance.random(),
            wall_skew_s=self._skews[name],
        )
        self.network.connect(process, process.incarnation)
        if self._sites[name] in self.network.server_down:
            self.faults.unplug(process, 0.5)
        process.start()

    # ---- the run

    def run(self) -> "World":
        try:
            self._begin()
            self._until_over(QUIET_AT_S)
            if self.plan.faults and not self.violations:
                self._ask_probes()
        finally:
            for process in self.network.processes.values():
                process.kill()
        return self

    def _begin(self) -> None:
        """Puts all that the plan knows on the clock."""
        for name in self._sites:
            self.clockwork.call_at(0.3 * self.chance.random(), None, self.start, name)
        for remote in self.plan.remotes:
            self.clockwork.call_at(self.chance.random(), None, self._measure, remote)
        for request in self.plan.requests:
            self.clockwork.call_at(request.at_s, None, self._arrive, request, self.clients)
        for fault in self.plan.faults:
            self.clockwork.call_at(fault.at_s, None, self.faults.begin, fault)

    def _until_over(self, quiet_at_s: float) -> None:
        """Runs until nothing is left, or the bound of all that may be kept."""
        ends = [request.at_s + request.ttft_deadline_s for request in self.plan.requests]
        until_s = max(quiet_at_s, *ends, self.faults.over_at_s) + KEPT_S
        self.clockwork.run(max(self.faults.over_at_s, max(request.at_s for request in self.plan.requests)))
        left = leftovers(self)
        while left and self.clockwork.now_s < until_s and not self.violations:
            self.clockwork.run(self.clockwork.now_s + LOOK_EVERY_S)
            left = leftovers(self)
        self.violations += [f"{each} is kept" for each in left]
        self.violations += judged_attempts(self)
        self._judge(self.clients)

    def _ask_probes(self) -> None:
        """Sends requests after all faults are over and repaired, until one is served as if there had been none."""
        wrong = ""
        for number in range(PROBES):
            self.clockwork.run(self.clockwork.now_s + (MAX_PAUSE_S + 0.5 if number else SETTLED_S))
            wrong = self._probe(number)
            if not wrong or self.violations:
                return
        self.violations.append(f"after all faults {wrong}")

    def _probe(self, number: int) -> str:
        """Sends one request. Returns what is wrong with how it was served."""
        sampling = Sampling(max_tokens=2, seed=1, ignore_eos=True)
        prompt = tuple((7 * at + number + 1) % 23 + 1 for at in range(10))
        self._arrive(
            RequestPlan(name=f"probe{number}", at_s=0.0, prompt=prompt, sampling=sampling, ttft_deadline_s=20.0), self.probes
        )
        probe = self.probes[-1]
        until_s = self.clockwork.now_s + 25.0
        while not probe.ends and self.clockwork.now_s < until_s and not self.violations:
            self.clockwork.run(self.clockwork.now_s + 0.25)
        self._judge([probe])
        if probe.ends and probe.ends[0] not in GOOD:
            return f"a request ended as {probe.ends[0]}"
        if self.plan.policy == "remote_all" and not self.plan.liar and probe.prefill_site == HOME:
            return "nothing is offloaded any more"
        return ""

    def _arrive(self, request: RequestPlan, clients: list[Client]) -> None:
        client = Client(request)
        client.asked_at_s = self.clockwork.now_s
        clients.append(client)
        gateway = self.network.processes.get(GATEWAY)
        if not isinstance(gateway, Gateway):
            client.end("torn")  # its connection is refused
            return
        gateway.clients.append(client)
        gateway.call_soon(serve, gateway, client)
        if request.leaves_after_s is not None:
            self.clockwork.call_at(self.clockwork.now_s + request.leaves_after_s, gateway, client.leave)

    def _measure(self, remote: str) -> None:
        """Announces a remote site's link each second, as its probe does while it stands."""
        estimate = LinkEstimate(
            source=remote, destination=HOME, rtt_s=2 * self.plan.link_delay_s, goodput_bytes_per_s=1e6, samples=9
        )  # fmt: skip
        for name in self.plan.schedulers:
            scheduler = self.network.processes.get(name)
            if isinstance(scheduler, Scheduler) and scheduler.connected and self.network.reachable(remote, HOME):
                self.clockwork.call_at(self.clockwork.now_s + self.plan.link_delay_s, scheduler, scheduler.hear_link, estimate)
        self.clockwork.call_at(self.clockwork.now_s + ESTIMATE_EVERY_S, None, self._measure, remote)

    # ---- verdicts

    def _undisturbed_s(self, name: str) -> float:
        """Returns the time to a request's first token without the faults; 0 for one that only a disturbed world has."""
        if self._undisturbed is None:
            world = World(replace(self.plan, profile="calm", faults=[])).run()
            self._undisturbed = {client.plan.name: client.first_token_s for client in world.clients}
        return self._undisturbed.get(name, 0.0)

    def _judge(self, clients: list[Client]) -> None:
        self.violations += [each for client in clients for each in judged(self, client, self._undisturbed_s)]
