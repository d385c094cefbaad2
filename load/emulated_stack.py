"""Two sites with emulated engines and an emulated link, small enough for a test: for what is about links, not about models."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.emulated import EmulatedEngine
from prfaas.engine.factory import EngineConfig
from prfaas.engine.protocol import DecodeRow
from prfaas.site.sites import Description, Link, Role, Service, Site, SiteKind

MODEL = "emulated-1t"
HOME, FAR = "local", "remote"
NEAR_PROFILE, FAR_PROFILE = "paper-1t-h20", "paper-1t-h200-anchored"


def two_sites(
    *,
    remote_workers: int,
    rate_mbit: float,
    rtt_ms: float = 20.0,
    egress_mbit: float | None = None,
    byte_scale: float = 200.0,
    time_scale: float = 8.0,
    token_scale: float = 32.0,
    scheduler: dict[str, Any] | None = None,
    seals: tuple[str, ...] = (),
) -> Description:
    """The pd site has one worker of each role; `egress_mbit` is the budget of the way from the prefill-only site to it. `seals`:
    prefill sites whose jobs and KV are sealed."""

    far = {"engine": engine_keys(FAR_PROFILE, byte_scale, time_scale, token_scale)}
    near = {"engine": engine_keys(NEAR_PROFILE, byte_scale, time_scale, token_scale)}
    services = [
        Service(site=HOME, role=Role.GATEWAY, name="gateway"),
        Service(site=HOME, role=Role.SCHEDULER, name="scheduler", config=scheduler or {"policy": "remote_all"}),
        Service(site=HOME, role=Role.DECODE_WORKER, name="d0", config=near | {"slots": 64, "waiting": 64}),
        Service(site=HOME, role=Role.PREFILL_WORKER, name="p0", config=near),
        *(Service(site=FAR, role=Role.PREFILL_WORKER, name=f"p{index}", config=far) for index in range(remote_workers)),
        Service(site=FAR, role=Role.SCHEDULER, name="scheduler"),
        *(Service(site=site, role=Role.BANDWIDTH_PROBE, name="probe") for site in (HOME, FAR)),
    ]
    budget = {} if egress_mbit is None else {HOME: egress_mbit}
    found = Description(
        model=MODEL,
        sites=(
            Site(name=HOME, kind=SiteKind.PD, seals=seals),
            Site(name=FAR, kind=SiteKind.PRFAAS, dials=(HOME,), egress_mbit=budget),
        ),
        links=(Link(between=(FAR, HOME), rate_mbit=rate_mbit, rtt_ms=rtt_ms),),
        services=tuple(services),
    )
    found.validate()
    return found


def engine_keys(profile: str, byte_scale: float, time_scale: float, token_scale: float = 32.0) -> dict[str, Any]:
    """Returns `[engine]` of a worker's configuration."""
    scales = {"time-scale": time_scale, "byte-scale": byte_scale, "token-scale": token_scale, "profile": profile}
    return {"engine": "emulated", "model": MODEL, "chunk-tokens": 256, "emulated": scales}


def many_sites(
    pd_sites: Sequence[str],
    prefill_sites: Mapping[str, tuple[str, ...]],
    *,
    policy: str,
    byte_scale: float = 2000.0,
    time_scale: float = 8.0,
) -> Description:
    """Sites with one worker of each role. `prefill_sites` says which pd sites each of them dials, without an emulated link."""
    near = {"engine": engine_keys(NEAR_PROFILE, byte_scale, time_scale)}
    far = {"engine": engine_keys(FAR_PROFILE, byte_scale, time_scale)}
    services: list[Service] = []
    for site in pd_sites:
        services += [
            Service(site=site, role=Role.GATEWAY, name="gateway"),
            Service(site=site, role=Role.SCHEDULER, name="scheduler", config={"policy": policy}),
            Service(site=site, role=Role.DECODE_WORKER, name="d0", config=near | {"slots": 64, "waiting": 64}),
            Service(site=site, role=Role.PREFILL_WORKER, name="p0", config=near),
        ]
    for site in prefill_sites:
        services += [
            Service(site=site, role=Role.SCHEDULER, name="scheduler"),
            Service(site=site, role=Role.PREFILL_WORKER, name="p0", config=far),
        ]
    services += [Service(site=site, role=Role.BANDWIDTH_PROBE, name="probe") for site in (*pd_sites, *prefill_sites)]
    sites = [Site(name=site, kind=SiteKind.PD) for site in pd_sites]
    sites += [Site(name=site, kind=SiteKind.PRFAAS, dials=dials) for site, dials in prefill_sites.items()]
    found = Description(model=MODEL, sites=tuple(sites), services=tuple(services))
    found.validate()
    return found


def every_service_twice(description: Description, shared_port: int) -> Description:
    """Returns the sites with a second one of each service that requests pass at home; the gateways share a port."""
    services = []
    for service in description.services:
        if service.role is Role.GATEWAY:
            service = msgspec.structs.replace(service, config=service.config | {"http-shared-port": shared_port})
        services.append(service)
        if service.site == HOME and service.role is not Role.BANDWIDTH_PROBE:
            services.append(msgspec.structs.replace(service, name=f"{service.name}-b"))
    doubled = msgspec.structs.replace(description, services=tuple(services))
    doubled.validate()
    return doubled


def right_answer(description: Description, prompt: Sequence[int], output_tokens: int) -> str:
    """The answer that every worker of this stack must give greedily, computed here by an engine that takes no time."""
    config = next(service.config for service in description.services if service.role is Role.DECODE_WORKER)
    keys = msgspec.convert(config["engine"], EngineConfig)
    engine = EmulatedEngine(MODEL, msgspec.structs.replace(keys.emulated, time_scale=1e9), chunk_tokens=keys.chunk_tokens)
    *before, token_id = prompt
    sequence = engine.reserve(len(before), len(prompt) + output_tokens)
    engine.prefill(before, lambda piece: engine.install(sequence, piece), lambda: False)
    answer = bytearray()
    for _ in range(output_tokens):
        row = DecodeRow(
            sequence=sequence, token_id=token_id, sampler=engine.sampler(Sampling(max_tokens=output_tokens, temperature=0.0))
        )
        (sampled,) = engine.decode([row])
        token_id = sampled.token_id
        answer.append(token_id)
    return answer.decode()
