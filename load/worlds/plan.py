"""Everything that a seed decides before a world begins: sites, workers, requests, faults."""

import random
from dataclasses import dataclass, field
from typing import Final

from load.worlds.model import VOCABULARY_TOKENS
from prfaas.contracts.to_decode import Sampling

HOME: Final = "pd"
GATEWAY: Final = "gateway"
SCHEDULER: Final = "scheduler"
STANDBY: Final = "scheduler-b"
PLACE: Final = "place"
"""Subject of placements, which the leading scheduler serves."""


def dispatcher_of(site: str) -> str:
    """Returns the name of the site's dispatcher."""
    return f"{site}-q"


FIRST_AT_S: Final = 0.6
"""Moment of the first request: all processes are there."""
QUIET_AT_S: Final = 7.0
"""Moment after which no fault begins."""
LONGEST_STOP_S: Final = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPlan:
    """One client's request."""

    name: str
    at_s: float
    prompt: tuple[int, ...]
    sampling: Sampling
    ttft_deadline_s: float
    leaves_after_s: float | None = None
    """Time after which the client closes its connection."""
    poison: str = ""
    """`deadly`: a prefill of it kills the process. `broken`: the engine raises. `bad_step`: a decode step raises."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    kind: str
    target: str
    at_s: float
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    name: str
    site: str


@dataclass(slots=True, kw_only=True)
class Plan:
    seed: int
    profile: str
    """`calm`: no fault. `single`: one fault, which may cost no request but those that it must. `storm`: several at once."""
    remotes: tuple[str, ...]
    prefill_workers: list[WorkerPlan]
    decode_workers: list[WorkerPlan]
    slots: int
    waiting: int
    policy: str
    link_delay_s: float
    token_s: float
    """Time that a prefill takes for a token."""
    step_s: float
    schedulers: tuple[str, ...]
    sealed: tuple[str, ...]
    """Prefill sites whose jobs and KV are sealed."""
    audited: bool
    """True where every prefill of another site has a second opinion."""
    liar: str
    """Prefill worker that makes wrong KV; empty: all are honest."""
    dispatchers: tuple[str, ...]
    """Sites with a dispatcher; workers of the others take jobs first come, first served."""
    objective_s: float
    """Time to first token that queued prompts should have."""
    queue_jobs: int
    """Most jobs of a site's stream."""
    requests: list[RequestPlan]
    faults: list[Fault] = field(default_factory=list)

    @property
    def fault_kinds(self) -> set[str]:
        """Kinds of faults and poisons, `lie` where a worker lies, `audit` where prefills are audited."""
        kinds = {fault.kind for fault in self.faults} | {request.poison for request in self.requests if request.poison}
        return kinds | ({"lie"} if self.liar else set()) | ({"audit"} if self.audited else set())


PROCESS_FAULTS: Final = ("kill", "stop", "unplug", "drop")
LINK_FAULTS: Final = ("cut", "half_open", "stall", "slow")
STORE_FAULTS: Final = ("flip_delivery", "flip_stored", "bucket_full", "server_restart", "forge")


def make_plan(seed: int) -> Plan:
    chance = random.Random(seed)
    profile = chance.choices(("calm", "single", "storm"), (15, 35, 50))[0]
    remotes = ("far1", "far2")[: chance.choices((1, 2), (3, 1))[0]]
    prefill = [WorkerPlan(name=f"{site}-p{n}", site=site) for site in (HOME, *remotes) for n in range(chance.choice((1, 1, 2)))]
    decode = [WorkerPlan(name=f"{HOME}-d{n}", site=HOME) for n in range(1 if profile == "storm" and chance.random() < 0.3 else 2)]
    crowded = profile == "storm" and chance.random() < 0.3
    audited, lies = chance.random() < 0.15, chance.random() < 0.5
    plan = Plan(
        seed=seed,
        profile=profile,
        remotes=remotes,
        prefill_workers=prefill,
        decode_workers=decode,
        slots=1 if crowded else chance.choice((2, 3, 4)),
        waiting=chance.choice((0, 1, 2)) if crowded else 8,
        policy=chance.choice(("remote_all", "remote_all", "balanced", "threshold", "priced", "local_only")),
        link_delay_s=chance.choice((0.005, 0.02, 0.05)),
        token_s=chance.choice((0.002, 0.01, 0.03)),
        step_s=chance.choice((0.005, 0.02, 0.1)),
        schedulers=(SCHEDULER, STANDBY) if profile != "calm" and chance.random() < 0.3 else (SCHEDULER,),
        sealed=remotes if chance.random() < 0.25 else (),
        audited=audited,
        liar=chance.choice([worker.name for worker in prefill if worker.site != HOME]) if audited and lies else "",
        dispatchers=tuple(site for site in (HOME, *remotes) if chance.random() < 0.7),
        objective_s=chance.choice((0.5, 2.0)) if profile == "storm" else 10.0,
        queue_jobs=chance.choice((1, 2)) if crowded and chance.random() < 0.5 else 1024,
        requests=[],
    )
    count = chance.randint(3, 8 if profile == "storm" else 6)
    shared = [chance.randrange(VOCABULARY_TOKENS) for _ in range(16)]
    plan.requests = [_request(chance, number, plan, shared) for number in range(count)]
    if profile != "calm":
        faults = 1 if profile == "single" else chance.randint(1, 6)
        plan.faults = sorted((_fault(chance, plan) for _ in range(faults)), key=lambda fault: fault.at_s)
    return plan


def _request(chance: random.Random, number: int, plan: Plan, shared: list[int]) -> RequestPlan:
    length = chance.choice((1, 2, 5, 9, 14, 20))
    if chance.random() < 0.3:
        prompt = [*shared, *(chance.randrange(VOCABULARY_TOKENS) for _ in range(4))][:length]
    else:
        prompt = [chance.randrange(VOCABULARY_TOKENS) for _ in range(length)]
    max_tokens = chance.choice((1, 3, 8, 16, 40))
    storm = plan.profile == "storm"
    poison = ""
    if storm and chance.random() < 0.08 and length > 1:
        poison = chance.choice(("deadly", "broken", "bad_step"))
    return RequestPlan(
        name=f"r{number}",
        at_s=FIRST_AT_S + chance.random() * chance.choice((0.1, 3.0)),
        prompt=tuple(prompt),
        sampling=Sampling(
            max_tokens=max_tokens,
            min_tokens=chance.choice((0, 0, 2)) if max_tokens > 2 else 0,
            seed=1,
            stop=chance.choice(((), (), ("abc",), ("aab", "cab"))),
            ignore_eos=chance.random() < 0.3,
        ),
        ttft_deadline_s=chance.choice((2.0, 5.0, 15.0)) if storm and not poison else 30.0,
        leaves_after_s=chance.random() * 2.0 if storm and chance.random() < 0.12 else None,
        poison=poison,
    )


def _fault(chance: random.Random, plan: Plan) -> Fault:
    kind = chance.choice((*PROCESS_FAULTS, *PROCESS_FAULTS, *LINK_FAULTS, *STORE_FAULTS))
    processes = [GATEWAY, *plan.schedulers, *map(dispatcher_of, plan.dispatchers)]
    processes += [worker.name for worker in (*plan.decode_workers, *plan.prefill_workers)]
    target = HOME
    if kind in PROCESS_FAULTS:
        target = chance.choice(processes)
    elif kind in LINK_FAULTS or kind == "forge" or (kind == "server_restart" and chance.random() < 0.4):
        target = chance.choice(plan.remotes)
    for_s = chance.choice((0.3, 1.0, 3.0, LONGEST_STOP_S)) * (0.5 + 0.5 * chance.random())
    aimed = chance.choice(plan.requests).at_s + chance.random() * chance.choice((0.05, 0.3, 1.5))
    at_s = aimed if chance.random() < 0.7 else FIRST_AT_S + 5.0 * chance.random()
    return Fault(kind, target, at_s, for_s)
