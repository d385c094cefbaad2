"""Network of any number of sites and links, and a plan for it."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from prfaas.capacity.lengths import Lengths
from prfaas.capacity.profiles import Profile

BINS = 48


class PrfaasSite(NamedTuple):
    name: str
    instances: int
    profile: Profile


class PdSite(NamedTuple):
    name: str
    instances: int
    profile: Profile
    demand_share: float | None = None
    """Share of all requests that arrive here, w_d; None at every site: requests may be sent to any."""


class Link(NamedTuple):
    source: str
    destination: str
    bytes_per_s: float


class Network(NamedTuple):
    prfaas: Sequence[PrfaasSite]
    pd: Sequence[PdSite]
    links: Sequence[Link]
    """Directed links; a pd site may prefill for another one too."""
    lengths: Lengths
    output_tokens: float
    decode_tokens_per_s: float = 0.0

    @property
    def sites(self) -> Sequence[PrfaasSite | PdSite]:
        return [*self.prfaas, *self.pd]


class PdPlan(NamedTuple):
    name: str
    n_prefill: int
    n_decode: int
    threshold_tokens: float
    """Threshold t; `high_tokens` of the distribution where nothing is offloaded."""
    offloaded_share: float
    """Share of the requests that are decoded here."""
    decoded_req_s: float


class Load(NamedTuple):
    """Load of a stage or link at Lambda_max."""

    name: str
    """One of `prefill <site>`, `decode <site>`, `link <source>-><destination>`."""
    used: float
    capacity: float
    unit: str

    @property
    def utilisation(self) -> float:
        return self.used / self.capacity if self.capacity else 0.0


class NetworkPlan(NamedTuple):
    throughput_req_s: float
    pd: Sequence[PdPlan]
    loads: Sequence[Load]
    bound_req_s: float
    """Bound on any plan's throughput: it is more than 0.01 % above `throughput_req_s` only when the solver's time was up."""
    routes: Sequence[tuple[str, str, float, float]]
    """Rows (prefill site, pd site, mean tokens, req/s), one for every bin with a rate."""

    @property
    def binds(self) -> tuple[str, ...]:
        return tuple(load.name for load in self.loads if load.utilisation > 0.995)


class PlanError(ValueError):
    """Raised for an inconsistent network, and when no plan was found; the message says which."""


class Bin(NamedTuple):
    low_tokens: float
    high_tokens: float
    share: float
    mean_tokens: float


def length_bins(lengths: Lengths, bins: int = BINS) -> list[Bin]:
    """Returns bins of about equal width in log length; those without requests are left out."""
    low, high = max(lengths.low_tokens, 1.0), max(lengths.high_tokens, 2.0)
    edges = [0.0, *(low * (high / low) ** (step / bins) for step in range(1, bins)), high]
    found = []
    for left, right in pairwise(edges):
        above_left = 1.0 if left == 0 else lengths.share_above(left)
        above_right = lengths.share_above(right)
        share = above_left - above_right
        if share > 1e-9:
            sum_left = lengths.mean_tokens if left == 0 else above_left * lengths.mean_above(left)
            mean = (sum_left - above_right * lengths.mean_above(right)) / share
            found.append(Bin(left, right, share, min(max(mean, left), right)))
    return found


def check_network(network: Network) -> None:
    """Raises PlanError."""
    names = [site.name for site in network.sites]
    if len(set(names)) < len(names):
        raise PlanError(f"every site needs a name of its own, but they are {names}.")
    if not network.pd:
        raise PlanError("there is no pd site: nobody would decode.")
    for site in network.pd:
        if site.instances < 2:
            raise PlanError(f"pd site {site.name} needs an instance for prefill and one for decode, but has {site.instances}.")
    pd_names = [site.name for site in network.pd]
    seen = set()
    for link in network.links:
        if link.source not in names or link.destination not in pd_names or link.source == link.destination:
            raise PlanError(
                f"link {link.source}->{link.destination} must lead from a site to another, pd one; sites are {names}."
            )
        if (link.source, link.destination) in seen:
            raise PlanError(f"link {link.source}->{link.destination} is given twice.")
        seen.add((link.source, link.destination))
    shares = [site.demand_share for site in network.pd]
    if any(share is not None for share in shares) and not math.isclose(sum(share or 0.0 for share in shares), 1.0, abs_tol=1e-6):
        raise PlanError(f"the demand shares of the pd sites must add up to 1, but they are {shares}.")
