"""Options of a site's queue."""

from collections.abc import Mapping
from math import inf

import msgspec


class QueueOptions(msgspec.Struct, frozen=True, kw_only=True):
    weights: Mapping[str, float] = {}
    """Weight by tenant, above 0; 1 for every other one."""
    put_off_limit_s: float = 5.0
    """Longest time beyond its due date that a job may be put off. Its expiry bounds it in any case."""
    class_floor: float = 0.55
    """Least share of jobs in time of a length class, of the best class's share; 0: no floor."""
    refuse_within_s: float = 1.0
    """Age up to which a job may be refused. An older one was accepted."""
    max_jobs: int = 65_536
    """Jobs of one model that may wait; more are refused."""

    def __post_init__(self) -> None:
        for tenant, weight in self.weights.items():
            if not 0 < weight < inf:
                raise ValueError(f"the weight of tenant {tenant!r} is {weight}; expected a finite number above 0.")
        for name in ("put_off_limit_s", "refuse_within_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        if not 0 <= self.class_floor <= 1:
            raise ValueError(f"class_floor is {self.class_floor}; expected 0 to 1.")
        if self.max_jobs < 1:
            raise ValueError(f"max_jobs is {self.max_jobs}; expected 1 or more.")
