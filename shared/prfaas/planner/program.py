"""General program: any number of prfaas and pd sites, each pair with its own link, solved as a mixed-integer linear program.

Lengths are cut into bins b (share q_b, mean length l_b). Unknown are the rates x[s,d,b] of requests of bin b that site s prefills
and pd site d decodes, the total rate Lambda, the prefill instances N_p[d] (integer), and z[d,b] = 1 where bin b may be offloaded
from d (binary). Lambda is maximised subject to

    sum over s of x[s,d,b]              = q_b w_d Lambda                 (all demand is served; without w: summed over d)
    sum over d, b of x[s,d,b] T_s(l_b) <= N_s, or N_p[s] at a pd site    (Eq 3 and 4: prefill time)
    sum over b of x[s,d,b] S_s(l_b)    <= B[s,d]                         (Eq 3: the link)
    sum over s, b of x[s,d,b]          <= (N[d] - N_p[d]) BS_max / (T_decode L_out)     (Eq 5)
    z[d,b] <= z[d,b+1];  x[s,d,b] = 0 for s != d where z[d,b] = 0;  x[d,d,b] = 0 where z[d,b-1] = 1

The last row makes every pd site a threshold site: it offloads what is longer than its own t, and at most one bin is split, which
places t inside that bin. A second pass keeps Lambda and the N_p and gives all prefill stages and links the largest common
headroom; where decode binds that is Eq 7 again. Unlike Eq 3 and 4, which take T at the mean length, this takes the mean of T
over the bins, so it comes out lower where T bends upward.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from prfaas.capacity import equations
from prfaas.planner.network import BINS, Bin, Load, Network, NetworkPlan, PdPlan, PdSite, PlanError, check_network, length_bins

TIME_LIMIT_S = 30.0
"""Time for each of the two passes; the best plan by then is taken, with its bound."""
LEAST_REQ_S = 1e-5
"""Throughput below which the solver's tolerances are as large as the plan."""


def solve_network(network: Network, bins: int = BINS) -> NetworkPlan:
    """Raises PlanError."""
    check_network(network)
    return _Program(network, length_bins(network.lengths, bins)).solve()


class _Program:
    """Program with the columns Lambda, headroom, N_p per pd site, z per (pd site, bin), x per (route, bin)."""

    LAMBDA, HEADROOM = 0, 1

    def __init__(self, network: Network, bins: Sequence[Bin]) -> None:
        self.network, self.bins = network, bins
        self.pd_index = {site.name: index for index, site in enumerate(network.pd)}
        self.profiles = {site.name: site.profile for site in network.sites}
        links = [(link.source, link.destination) for link in network.links]
        self.routes = [*((site.name, site.name) for site in network.pd), *links]
        self.decode_req_s = [self._decode_rate(site) for site in network.pd]
        self.columns = 2 + len(network.pd) * (1 + len(bins)) + len(self.routes) * len(bins)
        self.rows: list[tuple[dict[int, float], float, float]] = []
        self.pd_prefill_rows: list[int] = []
        self._demand()
        self._stages()
        self._thresholds()

    def _decode_rate(self, site: PdSite) -> float:
        batch_max = site.profile.batch_max(self.network.decode_tokens_per_s)
        return equations.pd_decode_req_s(1, batch_max, site.profile.step_s(batch_max), self.network.output_tokens)

    def _n_prefill(self, pd: int) -> int:
        return 2 + pd

    def _z(self, pd: int, bin_index: int) -> int:
        return 2 + len(self.network.pd) + pd * len(self.bins) + bin_index

    def _x(self, route: int, bin_index: int) -> int:
        return 2 + len(self.network.pd) * (1 + len(self.bins)) + route * len(self.bins) + bin_index

    def _row(self, terms: dict[int, float], low: float, high: float) -> None:
        self.rows.append((terms, low, high))

    def _demand(self) -> None:
        by_site = any(site.demand_share is not None for site in self.network.pd)
        groups = [[site.name] for site in self.network.pd] if by_site else [[site.name for site in self.network.pd]]
        for group in groups:
            weight = (self.network.pd[self.pd_index[group[0]]].demand_share or 0.0) if by_site else 1.0
            for index, part in enumerate(self.bins):
                terms = {self._x(route, index): 1.0 for route, (_, to) in enumerate(self.routes) if to in group}
                self._row({**terms, self.LAMBDA: -part.share * weight}, 0, 0)

    def _stages(self) -> None:
        for site in self.network.sites:
            terms = {
                self._x(route, index): site.profile.prefill_s(part.mean_tokens)
                for route, (source, _) in enumerate(self.routes)
                if source == site.name
                for index, part in enumerate(self.bins)
            }
            pd = self.pd_index.get(site.name)
            if pd is None:
                self._row({**terms, self.HEADROOM: site.instances}, -np.inf, site.instances)
            else:
                self.pd_prefill_rows.append(len(self.rows))
                self._row({**terms, self._n_prefill(pd): -1.0}, -np.inf, 0)
        for pd, (site, rate) in enumerate(zip(self.network.pd, self.decode_req_s, strict=True)):
            terms = {
                self._x(route, index): 1.0
                for route, (_, to) in enumerate(self.routes)
                if to == site.name
                for index in range(len(self.bins))
            }
            self._row({**terms, self._n_prefill(pd): rate}, -np.inf, rate * site.instances)
        for route, link in enumerate(self.network.links, start=len(self.network.pd)):
            profile = self.profiles[link.source]
            # In Gbit/s: the solver's tolerances are absolute, and bytes per second would drown the other rows.
            terms = {self._x(route, index): profile.kv_bytes(part.mean_tokens) * 8e-9 for index, part in enumerate(self.bins)}
            self._row({**terms, self.HEADROOM: link.bytes_per_s * 8e-9}, -np.inf, link.bytes_per_s * 8e-9)

    def _thresholds(self) -> None:
        most = sum(rate * (site.instances - 1) for site, rate in zip(self.network.pd, self.decode_req_s, strict=True))
        for pd, site in enumerate(self.network.pd):
            remote = [route for route, (source, to) in enumerate(self.routes) if to == site.name and source != to]
            for index, part in enumerate(self.bins):
                limit = most * part.share
                self._row({**{self._x(route, index): 1.0 for route in remote}, self._z(pd, index): -limit}, -np.inf, 0)
                if index:
                    self._row({self._x(pd, index): 1.0, self._z(pd, index - 1): limit}, -np.inf, limit)
                    self._row({self._z(pd, index - 1): 1.0, self._z(pd, index): -1.0}, -np.inf, 0)

    def solve(self) -> NetworkPlan:
        integer = np.zeros(self.columns)
        integer[2 : self._x(0, 0)] = 1
        low, high = np.zeros(self.columns), np.full(self.columns, np.inf)
        high[self._z(0, 0) : self._x(0, 0)] = 1
        for pd, site in enumerate(self.network.pd):
            low[self._n_prefill(pd)], high[self._n_prefill(pd)] = 1, site.instances - 1
        high[self.HEADROOM] = 0
        first, bound = self._run(-_unit(self.columns, self.LAMBDA), integer, low, high)
        if first[self.LAMBDA] < LEAST_REQ_S:
            raise PlanError(f"these sites carry less than {LEAST_REQ_S:g} req/s, too little to plan with.")

        low[self.LAMBDA] = first[self.LAMBDA] * (1 - 1e-5)
        for pd in range(len(self.network.pd)):
            column = self._n_prefill(pd)
            low[column] = high[column] = round(first[column])
            # Headroom times N_p is linear only now that N_p is a number.
            self.rows[self.pd_prefill_rows[pd]][0][self.HEADROOM] = low[column]
        high[self.HEADROOM] = 1
        # The small reward for local prefill keeps routes that gain nothing off the links.
        reward = -_unit(self.columns, self.HEADROOM)
        for pd in range(len(self.network.pd)):
            reward[self._x(pd, 0) : self._x(pd, len(self.bins) - 1) + 1] -= 1e-4 / max(first[self.LAMBDA], 1e-9)
        second, _ = self._run(reward, integer, low, high)
        return self._plan(second, -bound)

    def _run(
        self, cost: "np.ndarray", integer: "np.ndarray", low: "np.ndarray", high: "np.ndarray"
    ) -> tuple["np.ndarray", float]:
        """Returns the best columns that were found, and the bound on `cost`. Raises PlanError."""
        entries = [(row, column, value) for row, (terms, _, _) in enumerate(self.rows) for column, value in terms.items()]
        at, columns, values = zip(*entries, strict=True)
        matrix = coo_array((values, (at, columns)), shape=(len(self.rows), self.columns)).tocsr()
        constraint = LinearConstraint(matrix, [row[1] for row in self.rows], [row[2] for row in self.rows])
        try:
            result = milp(
                cost,
                integrality=integer,
                bounds=Bounds(low, high),
                constraints=constraint,
                options={"time_limit": TIME_LIMIT_S, "mip_rel_gap": 1e-4},
            )
        except ValueError as error:
            raise PlanError(f"the solver took no such network: {error}.") from error
        if result.x is None:
            raise PlanError(f"the solver found no plan within {TIME_LIMIT_S:g} s: {str(result.message).rstrip('.')}.")
        bound = result.fun if result.mip_dual_bound is None else result.mip_dual_bound
        return np.asarray(result.x), float(bound)

    def _plan(self, x: "np.ndarray", bound_req_s: float) -> NetworkPlan:
        rate = float(x[self.LAMBDA])
        flows = {
            (route, index): float(x[self._x(route, index)])
            for route in range(len(self.routes))
            for index in range(len(self.bins))
        }
        loads = self._loads(x, flows)
        return NetworkPlan(
            throughput_req_s=rate,
            pd=[self._pd_plan(pd, site, x, flows) for pd, site in enumerate(self.network.pd)],
            loads=loads,
            bound_req_s=bound_req_s,
            routes=[
                (*self.routes[route], self.bins[index].mean_tokens, flow)
                for (route, index), flow in flows.items()
                if flow > 1e-6 * max(rate, 1e-9)
            ],
        )

    def _pd_plan(self, pd: int, site: PdSite, x: "np.ndarray", flows: dict[tuple[int, int], float]) -> PdPlan:
        here = [route for route, (_, to) in enumerate(self.routes) if to == site.name]
        per_bin = [sum(flows[route, index] for route in here) for index in range(len(self.bins))]
        local = [flows[pd, index] for index in range(len(self.bins))]
        decoded = sum(per_bin)
        n_prefill = round(float(x[self._n_prefill(pd)]))
        share = 1 - sum(local) / decoded if decoded > 0 else 0.0
        return PdPlan(site.name, n_prefill, site.instances - n_prefill, self._threshold(per_bin, local), share, decoded)

    def _threshold(self, per_bin: Sequence[float], local: Sequence[float]) -> float:
        """Returns the length in the first bin that is offloaded in part, below which the part that stays lies."""
        for part, all_req_s, local_req_s in zip(self.bins, per_bin, local, strict=True):
            if all_req_s > 1e-9 and local_req_s < all_req_s * (1 - 1e-6):
                lengths = self.network.lengths
                above = lengths.share_above(part.low_tokens) if part.low_tokens else 1.0
                return lengths.quantile(1 - above + part.share * local_req_s / all_req_s)
        return self.network.lengths.high_tokens

    def _loads(self, x: "np.ndarray", flows: dict[tuple[int, int], float]) -> list[Load]:
        loads = []
        for site in self.network.sites:
            pd = self.pd_index.get(site.name)
            instances = site.instances if pd is None else round(float(x[self._n_prefill(pd)]))
            busy = sum(
                flow * site.profile.prefill_s(self.bins[index].mean_tokens)
                for (route, index), flow in flows.items()
                if self.routes[route][0] == site.name
            )
            loads.append(Load(f"prefill {site.name}", busy, instances, "instances"))
        for pd, (site, rate) in enumerate(zip(self.network.pd, self.decode_req_s, strict=True)):
            decoded = sum(flow for (route, _), flow in flows.items() if self.routes[route][1] == site.name)
            loads.append(
                Load(f"decode {site.name}", decoded, rate * (site.instances - round(float(x[self._n_prefill(pd)]))), "req/s")
            )
        for route, link in enumerate(self.network.links, start=len(self.network.pd)):
            profile = self.profiles[link.source]
            used = sum(flows[route, index] * profile.kv_bytes(part.mean_tokens) for index, part in enumerate(self.bins))
            loads.append(Load(f"link {link.source}->{link.destination}", used, link.bytes_per_s, "bytes/s"))
        return loads


def _unit(size: int, column: int) -> "np.ndarray":
    vector = np.zeros(size)
    vector[column] = 1.0
    return vector
