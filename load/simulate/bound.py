"""Upper bound on the share of requests within an objective: a clairvoyant linear program over the paper's machines.

Time is cut into slots. A request may be prefilled in any slots between its arrival and its objective, at any site, in parts and
on several workers at once; it counts by the part that is done. No scheduler can do better: it knows all arrivals, and preempts
freely. Decode and caches are left out, and the link counts with its bytes. HiGHS solves it, through scipy.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from load.simulate.cases import MACHINES, Case
from load.simulate.link import Link
from load.simulate.paper import H20, H200

SLOT_S = 5.0


def bound_share(case: Case, objective_s: float, start_s: float, end_s: float) -> float:
    """Largest share of the requests due in [start_s, end_s) that can be prefilled within the objective. Earlier requests cost
    nothing: the bound looks at these alone."""
    arrivals = [arrival for arrival in case.arrivals if start_s <= arrival.arrival_s < end_s]
    slots = int((end_s - start_s + objective_s) / SLOT_S) + 2
    entries: list[tuple[int, int, float]] = []
    columns = 0
    capacity = _capacities(case, start_s, slots)
    for index, arrival in enumerate(arrivals):
        tokens = arrival.prompt_tokens - 1
        for site, profile in enumerate((H20, H200)):
            work_s, kv_bytes = profile.prefill_s(tokens), profile.kv_bytes(tokens)
            if work_s > objective_s:
                continue
            first, last = (int((at_s - start_s) / SLOT_S) for at_s in (arrival.arrival_s, arrival.arrival_s + objective_s))
            for slot in range(first, last + 1):
                entries.append((index, columns, 1.0))
                entries.append((len(arrivals) + site * slots + slot, columns, work_s))
                if site:
                    entries.append((len(arrivals) + 2 * slots + slot, columns, kv_bytes * 8e-9))
                columns += 1
    rows, at, values = zip(*entries, strict=True)
    matrix = coo_array((values, (rows, at)), shape=(len(arrivals) + 3 * slots, columns)).tocsr()
    limits = np.concatenate([np.ones(len(arrivals)), capacity])
    result: Any = linprog(-np.ones(columns), A_ub=matrix, b_ub=limits, bounds=(0, 1), method="highs")
    assert result.status == 0, result.message
    return float(-result.fun / len(arrivals))


def _capacities(case: Case, start_s: float, slots: int) -> Sequence[float]:
    """Worker seconds of the local and of the remote site, then Gbit of the link, in each slot."""
    link = Link(case.link)
    gbit = [link.rate(start_s + (slot + 0.5) * SLOT_S) * SLOT_S * 8e-9 for slot in range(slots)]
    return [MACHINES.n_prefill * SLOT_S] * slots + [MACHINES.n_prfaas * SLOT_S] * slots + gbit
