"""Tenants' weighted shares of a site's prefill time, and deficit round robin among them (Shreedhar and Varghese, 1995)."""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import exp

from prfaas_scheduler.queue.due_order import Waiting
from prfaas_scheduler.queue.events import Job

REMEMBERED_S = 60.0
"""Time after which work that a tenant had counts for 1 / e of itself."""
QUANTUM_S = 10.0
"""Work that a tenant of weight 1 may have in each round."""
FORGOTTEN_S = 1e-3
"""Remembered work below which a tenant that waits for nothing is forgotten."""


class Shares:
    """Work that tenants have had lately or wait for, compared with their weights."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """`weights`: by tenant; 1 for every other one."""
        self._weights = weights
        self._work_s: dict[str, float] = {}
        self._total_s = self._total_weight = 0.0
        self._at = 0.0

    def weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)

    def add(self, tenant: str, work_s: float, now_s: float) -> None:
        """Counts work that was accepted, or takes back what was accepted and will not be done (negative)."""
        self._fade(now_s)
        if tenant not in self._work_s:
            self._work_s[tenant] = 0.0
            self._total_weight += self.weight(tenant)
        work_s = max(work_s, -self._work_s[tenant])
        self._work_s[tenant] += work_s
        self._total_s += work_s

    def is_above(self, tenant: str) -> bool:
        """True if the tenant has its share of the work, or more. At least one tenant always has."""
        return self.of_share(tenant) >= 1

    def of_share(self, tenant: str) -> float:
        """Work that the tenant has had or waits for, to its weighted share of all tenants'; 1 while there is none."""
        weight = self.weight(tenant)
        total_weight = self._total_weight if tenant in self._work_s else self._total_weight + weight
        share_s = weight / total_weight * self._total_s * (1 - 1e-9)
        return self._work_s.get(tenant, 0.0) / share_s if share_s else 1.0

    def _fade(self, now_s: float) -> None:
        # Step by step: every call would walk over all tenants.
        if now_s - self._at < REMEMBERED_S / 32:
            return
        factor = exp((self._at - now_s) / REMEMBERED_S)
        self._at = now_s
        self._work_s = {tenant: left for tenant, work_s in self._work_s.items() if (left := work_s * factor) > FORGOTTEN_S}
        self._total_s = sum(self._work_s.values())
        self._total_weight = sum(self.weight(tenant) for tenant in self._work_s)


class Backlogs:
    """Work that each tenant waits for, by its weight. A tenant that waits for nothing is not remembered."""

    def __init__(self, weight: Callable[[str], float]) -> None:
        self._weight = weight
        self._jobs: Counter[str] = Counter()
        self._work_s: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        self._jobs[job.tenant] += 1
        self._work_s[job.tenant] = self._work_s.get(job.tenant, 0.0) + job.work_s

    def remove(self, job: Job) -> None:
        self._jobs[job.tenant] -= 1
        self._work_s[job.tenant] -= job.work_s
        if not self._jobs[job.tenant]:
            del self._jobs[job.tenant], self._work_s[job.tenant]

    def is_below(self, tenant: str, other: str) -> bool:
        """True if `tenant` waits for less than half of the work that `other` waits for, by weight. Jobs of both must wait.

        Less alone would not do: who was served just now waits for a little less, and would be served again and again."""
        return 2 * self._work_s[tenant] / self._weight(tenant) < self._work_s[other] / self._weight(other)

    def validate(self, jobs: Iterable[Job]) -> None:
        """Compares the sums with a walk over all jobs that wait."""
        work_s: dict[str, float] = {}
        for job in jobs:
            work_s[job.tenant] = work_s.get(job.tenant, 0.0) + job.work_s
        assert self._work_s.keys() == self._jobs.keys() == work_s.keys()
        assert all(abs(self._work_s[tenant] - sum_s) < 1e-3 for tenant, sum_s in work_s.items())


class DeficitRoundRobin:
    """Jobs of several tenants: each round a tenant earns its weight's quantum of work, and spends it on its own jobs, those that
    expire first before the others."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._waiting: dict[str, Waiting] = {}
        self._heaps: OrderedDict[str, list[tuple[float, int, str]]] = OrderedDict()
        """Heap of (moment of expiry, number, job id) by tenant, in the order of their turns."""
        self._deficit_s: dict[str, float] = {}
        self.work_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._waiting

    def __iter__(self) -> Iterator[str]:
        return iter(self._waiting)

    def add(self, waiting: Waiting) -> None:
        job = waiting.job
        self._waiting[job.job_id] = waiting
        self.work_s += job.work_s
        self._deficit_s.setdefault(job.tenant, 0.0)
        heapq.heappush(self._heaps.setdefault(job.tenant, []), (job.expires_at, waiting.number, job.job_id))

    def put_back(self, waiting: Waiting) -> None:
        """Adds a job that was popped and is not to run yet: its tenant has spent nothing."""
        self.add(waiting)
        self._deficit_s[waiting.job.tenant] += waiting.job.work_s

    def remove(self, job_id: str) -> None:
        waiting = self._waiting.pop(job_id)
        self.work_s = self.work_s - waiting.job.work_s if self._waiting else 0.0
        if not self._waiting:
            self._heaps.clear()
            self._deficit_s.clear()

    def pop(self) -> Waiting | None:
        """The next job, which leaves; None without any."""
        while self._waiting:
            tenant, heap = next(iter(self._heaps.items()))
            while heap and self._waiting.get(heap[0][2]) is None:
                heapq.heappop(heap)
            if not heap:
                del self._heaps[tenant], self._deficit_s[tenant]
                continue
            waiting = self._waiting[heap[0][2]]
            if self._deficit_s[tenant] >= waiting.job.work_s:
                heapq.heappop(heap)
                self._deficit_s[tenant] -= waiting.job.work_s
                self.remove(waiting.job.job_id)
                return waiting
            self._deficit_s[tenant] += QUANTUM_S * self._shares.weight(tenant)
            self._heaps.move_to_end(tenant)
        return None

    def validate(self) -> None:
        assert self._heaps.keys() == self._deficit_s.keys()
        listed = {job_id for heap in self._heaps.values() for _, _, job_id in heap}
        assert self._waiting.keys() <= listed
        assert abs(self.work_s - sum(waiting.job.work_s for waiting in self._waiting.values())) < 1e-3
