"""Arms of the comparison: policies, with or without the site's queue with due dates, each told the objectives.

The arms of others are readings of their public documents (`prfaas_scheduler.policies.readings`).
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from load.simulate.cases import MACHINES, Case
from load.simulate.paper import scenario
from load.simulate.policies import scheduler_keys
from load.simulate.scenario import Timing
from load.simulate.world import SimResult, simulate
from prfaas_scheduler.queue.objectives import PROPORTIONAL_FROM_TOKENS, Objectives
from prfaas_scheduler.queue.options import QueueOptions

TTFT_OBJECTIVE_S = 10.0
TPOT_OBJECTIVE_S = 1.1 / 40
FLAT = Objectives(TTFT_OBJECTIVE_S, inf)
"""One objective for all lengths, as the arms of others have it."""
BY_LENGTH = Objectives(TTFT_OBJECTIVE_S, PROPORTIONAL_FROM_TOKENS)
DEADLINE_S = 120.0
PAPER, PAPER_LOOP, PAPER_QUEUE, OURS = "paper", "paper loop", "paper + queue", "ours"


class Arm(NamedTuple):
    policy: str
    what: str
    keys: Mapping[str, Any] = {}
    """More keys of the scheduler."""
    queue: QueueOptions | None = None
    """None: first come first served."""
    batch_limited: bool = True
    """True: a decode batch is never larger than BS_max."""


QUEUE = QueueOptions()
LOOP = {"resolve-every-s": 15.0}
ARMS: dict[str, Arm] = {
    "least loaded": Arm("least_loaded", "fewest prompts per worker"),
    "shortest wait": Arm("shortest_wait", "join the shortest expected wait"),
    "dynamo": Arm("dynamo", "Dynamo's cost: active and uncached prefill tokens (a reading)"),
    "llm-d": Arm("headroom", "llm-d's headroom by predicted latency, with shedding (a reading)"),
    PAPER: Arm("threshold", "the paper's threshold, solved once"),
    PAPER_LOOP: Arm("threshold", "the paper's short-term control", LOOP),
    PAPER_QUEUE: Arm("threshold", "the paper's threshold and our queue", queue=QUEUE),
    "paper loop + queue": Arm("threshold", "the paper's short-term control and our queue", LOOP, queue=QUEUE),
    OURS: Arm("priced", "predicted TTFT and prices, and our queue", queue=QUEUE),
}
ABLATIONS: dict[str, Arm] = {
    "ours, no prices": Arm("priced", "without prices", {"price-share": 0.0}, queue=QUEUE),
    "ours, no queue": Arm("priced", "first come first served"),
    "ours, nothing put off": Arm("priced", "refuses at once what would be late", queue=QueueOptions(put_off_limit_s=0.0)),
    "ours, free batches": Arm("priced", "decode batches grow beyond BS_max", queue=QUEUE, batch_limited=False),
}
OTHERS = tuple(name for name in ARMS if name != OURS)


class Disturbance(NamedTuple):
    """Ways in which machines, links and objectives differ from what the arms know."""

    noise: float = 0.0
    """Sigma of the log-normal factor on each prefill's time."""
    straggler: float = 1.0
    """Factor on the prefill times of the first worker of each site."""
    told_objective: float = 1.0
    """Objective of TTFT that the arms are told, in units of the one that requests are judged by."""
    link_bias: float = 1.0
    """Estimate of the link's goodput, in units of what it carries."""


NONE = Disturbance()


def simulated(
    case: Case,
    arm: Arm,
    *,
    objectives: Objectives = FLAT,
    disturbance: Disturbance = NONE,
    tenants: Sequence[str] = (),
) -> SimResult:
    """One arm in one case, on the paper's machines. `tenants`: of each arrival."""
    told = objectives._replace(ttft_s=objectives.ttft_s * disturbance.told_objective)
    return simulate(
        scenario(
            MACHINES,
            case.arrivals,
            keys=scheduler_keys(arm.policy, case.threshold_tokens, told.ttft_s) | dict(arm.keys),
            link=case.link,
            timing=Timing(ttft_deadline_s=DEADLINE_S, objectives=told),
            cache_bytes=case.cache_bytes,
            block_tokens=case.block_tokens,
            queue=arm.queue,
            batch_limited=arm.batch_limited,
            tpot_objective_s=TPOT_OBJECTIVE_S,
            noise=disturbance.noise,
            slowness=(disturbance.straggler,),
            link_bias=disturbance.link_bias,
            tenants=tenants,
        )
    )
