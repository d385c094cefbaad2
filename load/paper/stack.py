"""The paper's machines as a real stack on this one: emulated engines, with time, bytes and tokens scaled alike everywhere."""

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from load.arrivals import scaled_tokens
from load.simulate.paper import FAR, H20, H20_NAME, H200_NAME, HOME, SLOTS, STEADY, Deployment
from load.simulate.scenario import LinkSpec
from prfaas.engine.emulated import EmulatedConfig, EmulatedEngine
from prfaas.replay.arrival import Arrival
from prfaas.site.sites import Description, Link, Role, Service, Site, SiteKind
from prfaas_scheduler.queue.objectives import PROPORTIONAL_FROM_TOKENS

MODEL = "emulated-1t"
MIB = 1 << 20


class Scales(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, bytes and tokens of the paper's machines that one of this stack stands for."""

    time: float = 4.0
    bytes: float = 6000.0
    tokens: float = 32.0
    chunk_tokens: int = 256
    """Scaled tokens in a chunk."""
    cache_mib: int = 0
    """Memory of each worker for its prefix cache, scaled; 0: none. A block is a chunk."""

    @property
    def block_tokens(self) -> int:
        """The paper's tokens in a block."""
        return round(self.chunk_tokens * self.tokens)

    def rate_mbit(self, bytes_per_s: float) -> float:
        """Scaled rate of a link of the paper's, in 10^6 bits a second."""
        return bytes_per_s * 8 / 1e6 * self.time / self.bytes

    def link(self, spec: LinkSpec) -> LinkSpec:
        """Scales a link for a simulation in scaled time; its bytes are the paper's."""
        rates = tuple((start_s / self.time, bytes_per_s * self.time) for start_s, bytes_per_s in spec.rates)
        return LinkSpec(rates=rates, rtt_s=spec.rtt_s / self.time)

    def arrivals(self, arrivals: Iterable[Arrival]) -> list[Arrival]:
        return scaled_tokens(arrivals, self.tokens, self.time)

    def keys(self, keys: dict[str, Any]) -> dict[str, Any]:
        """A scheduler's."""
        scaled = {
            "threshold-tokens": round(keys["threshold-tokens"] / self.tokens),
            "ttft-objective-s": keys["ttft-objective-s"] / self.time,
            "ttft-proportional-from-tokens": PROPORTIONAL_FROM_TOKENS / self.tokens,
        }
        return keys | scaled

    def engine(self, profile: str) -> EmulatedEngine:
        """Builds the engine that a worker with this profile has."""
        return EmulatedEngine(MODEL, self._config(profile), chunk_tokens=self.chunk_tokens)

    def with_caches(self, cache_bytes: float, chunk_tokens: int) -> "Scales":
        """Returns the same with caches of the paper's bytes, rounded up to a whole scaled MiB."""
        cache_mib = math.ceil(cache_bytes / self.bytes / MIB)
        return msgspec.structs.replace(self, chunk_tokens=chunk_tokens, cache_mib=cache_mib)

    @property
    def cache_bytes(self) -> int:
        """The paper's bytes in a cache."""
        return round(self.cache_mib * MIB * self.bytes)

    @property
    def cache_keys(self) -> dict[str, Any]:
        """A worker's."""
        return {"prefix-cache-mib": self.cache_mib}

    def engine_keys(self, profile: str) -> dict[str, Any]:
        """`[engine]` of a worker's configuration."""
        return {
            "engine": "emulated",
            "chunk-tokens": self.chunk_tokens,
            "emulated": msgspec.to_builtins(self._config(profile)),
        }

    def _config(self, profile: str) -> EmulatedConfig:
        return EmulatedConfig(profile=profile, time_scale=self.time, byte_scale=self.bytes, token_scale=self.tokens)


def description(deployment: Deployment, scales: Scales) -> Description:
    services = [
        Service(site=HOME, role=Role.GATEWAY, name="gateway", config={"max-requests": 4096}),
        Service(site=HOME, role=Role.SCHEDULER, name="scheduler", config=scales.keys(deployment.keys)),
    ]
    # A batch of BS_max, and beside it as many requests whose KV is still to come as in the simulation.
    places = {"slots": H20.batch_max(), "coming": SLOTS - H20.batch_max(), "waiting": 512}
    decode = {"engine": scales.engine_keys(H20_NAME)} | places | scales.cache_keys
    services += [
        Service(site=HOME, role=Role.DECODE_WORKER, name=f"d{index}", config=decode) for index in range(deployment.n_decode)
    ]
    for site, count, profile in ((HOME, deployment.n_prefill, H20_NAME), (FAR, deployment.n_prfaas, H200_NAME)):
        prefill = {"engine": scales.engine_keys(profile)} | scales.cache_keys
        services += [Service(site=site, role=Role.PREFILL_WORKER, name=f"p{index}", config=prefill) for index in range(count)]
    sites = [Site(name=HOME, kind=SiteKind.PD)]
    links = []
    if deployment.n_prfaas:
        sites.append(Site(name=FAR, kind=SiteKind.PRFAAS, dials=(HOME,)))
        rate_mbit = scales.rate_mbit(STEADY.rates[0][1])
        services.append(Service(site=FAR, role=Role.SCHEDULER, name="scheduler", config=scales.keys(deployment.keys)))
        links.append(Link(between=(FAR, HOME), rate_mbit=rate_mbit, rtt_ms=STEADY.rtt_s * 1e3 / scales.time))
        services += [Service(site=site, role=Role.BANDWIDTH_PROBE, name="probe") for site in (HOME, FAR)]
    found = Description(model=MODEL, sites=tuple(sites), links=tuple(links), services=tuple(services))
    found.validate()
    return found
