"""The paper's deployments as real stacks on this machine: emulated engines; time, bytes and tokens scaled alike everywhere."""

from typing import Any

import msgspec

from infra.sites import Description, Link, Role, Service, Site, SiteKind
from load.simulate.paper import LINK_BYTES_PER_S, Deployment
from prfaas.engine.emulated import EmulatedConfig, EmulatedEngine

MODEL = "emulated-1t"
HOME, FAR = "home", "far"
RTT_MS = 20.0


class Scales(msgspec.Struct, frozen=True, kw_only=True):
    """One second, byte or token here stands for so many of the paper's machines."""

    time: float = 5.0
    bytes: float = 6000.0
    tokens: float = 32.0
    chunk_tokens: int = 256
    """Of the scaled ones."""

    @property
    def link_mbit(self) -> float:
        """The paper's 100 Gbit/s here."""
        return LINK_BYTES_PER_S * 8 / 1e6 * self.time / self.bytes

    @property
    def rtt_ms(self) -> float:
        return RTT_MS / self.time

    def config(self, profile: str) -> EmulatedConfig:
        return EmulatedConfig(profile=profile, time_scale=self.time, byte_scale=self.bytes, token_scale=self.tokens)

    def engine(self, profile: str) -> EmulatedEngine:
        """As a worker with this profile builds it."""
        return EmulatedEngine(MODEL, self.config(profile), chunk_tokens=self.chunk_tokens)

    def engine_keys(self, profile: str) -> dict[str, Any]:
        """`[engine]` of a worker's configuration."""
        return {
            "engine": "emulated",
            "chunk-tokens": self.chunk_tokens,
            "emulated": msgspec.to_builtins(self.config(profile)),
        }


H200_PROFILE, H20_PROFILE = "paper-1t-h200-anchored", "paper-1t-h20"
DECODE_SLOTS = 64
"""The batch of 20, and requests that wait for their KV."""


def description(deployment: Deployment, scales: Scales, policy_keys: dict[str, Any]) -> Description:
    """`policy_keys`: the scheduler's, in scaled tokens."""
    services = [
        Service(site=HOME, role=Role.GATEWAY, name="gateway", config={"max-requests": 4096}),
        Service(site=HOME, role=Role.SCHEDULER, name="scheduler", config=policy_keys),
    ]
    decode = {"engine": scales.engine_keys(H20_PROFILE), "slots": DECODE_SLOTS, "waiting": 512}
    services += [
        Service(site=HOME, role=Role.DECODE_WORKER, name=f"d{index}", config=decode) for index in range(deployment.n_decode)
    ]
    for site, count, profile in ((HOME, deployment.n_prefill, H20_PROFILE), (FAR, deployment.n_prfaas, H200_PROFILE)):
        prefill = {"engine": scales.engine_keys(profile)}
        services += [Service(site=site, role=Role.PREFILL_WORKER, name=f"p{index}", config=prefill) for index in range(count)]
    sites = [Site(name=HOME, kind=SiteKind.PD)]
    links = []
    if deployment.n_prfaas:
        sites.append(Site(name=FAR, kind=SiteKind.PRFAAS, dials=(HOME,)))
        links.append(Link(between=(FAR, HOME), rate_mbit=scales.link_mbit, rtt_ms=scales.rtt_ms))
    found = Description(model=MODEL, sites=tuple(sites), links=tuple(links), services=tuple(services))
    found.validate()
    return found
