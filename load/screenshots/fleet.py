"""Three sites with emulated engines, and traffic for them: what the pictures show."""

import asyncio
import random
from typing import Any, Final

import httpx

from load.emulated_stack import MODEL
from prfaas.site.sites import Description, Link, Role, Service, Site, SiteKind

HOME: Final = "frankfurt"
_SCALES: Final = {"time-scale": 4.0, "byte-scale": 100.0, "token-scale": 32.0}
_MEDIAN_TOKENS, _SIGMA, _MOST_TOKENS = 380.0, 0.8, 2400
"""Lengths of prompts, log-normal."""
_SHARED: Final = [random.Random(9).randrange(200) for _ in range(_MOST_TOKENS)]
"""Beginning that some prompts share."""


def fleet() -> Description:
    """Describes a pd site and two that prefill for it, one over a link with a budget."""

    def engine(profile: str) -> dict[str, Any]:
        emulated = _SCALES | {"profile": profile}
        return {"engine": {"engine": "emulated", "model": MODEL, "chunk-tokens": 128, "emulated": emulated}}

    near, far = engine("paper-1t-h20"), engine("paper-1t-h200-anchored")
    services = [
        Service(site=HOME, role=Role.GATEWAY, name="gateway"),
        Service(site=HOME, role=Role.SCHEDULER, name="scheduler", config={"threshold-tokens": 480, "resolve-every-s": 0}),
        *(Service(site=HOME, role=Role.DECODE_WORKER, name=f"d{n}", config=near | _DECODE) for n in range(3)),
        *(Service(site=HOME, role=Role.PREFILL_WORKER, name=f"p{n}", config=near | _PREFILL) for n in range(2)),
        Service(site=HOME, role=Role.BANDWIDTH_PROBE, name="probe"),
    ]
    for site, workers in (("oslo", 2), ("tromso", 1)):
        services += [Service(site=site, role=Role.PREFILL_WORKER, name=f"p{n}", config=far | _PREFILL) for n in range(workers)]
        services += [Service(site=site, role=role, name=role.value) for role in (Role.SCHEDULER, Role.BANDWIDTH_PROBE)]
    found = Description(
        model=MODEL,
        sites=(
            Site(name=HOME, kind=SiteKind.PD),
            Site(name="oslo", kind=SiteKind.PRFAAS, dials=(HOME,), egress_mbit={HOME: 60.0}),
            Site(name="tromso", kind=SiteKind.PRFAAS, dials=(HOME,)),
        ),
        links=(
            Link(between=("oslo", HOME), rate_mbit=100.0, rtt_ms=24.0),
            Link(between=("tromso", HOME), rate_mbit=40.0, rtt_ms=46.0),
        ),
        services=tuple(services),
    )
    found.validate()
    return found


_DECODE: Final[dict[str, Any]] = {"slots": 16, "waiting": 32, "cache-mib": 96}
_PREFILL: Final[dict[str, Any]] = {"prefix-cache-mib": 24}


class Traffic:
    """Requests at random, `per_s` a second on average, until it is cancelled. Some end badly, as in real life."""

    def __init__(self, url: str, per_s: float, seed: int) -> None:
        self._url = url
        self._per_s = per_s
        self._random = random.Random(seed)
        self.answered = 0

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=120.0, limits=limits, trust_env=False) as http,
            asyncio.TaskGroup() as requests,
        ):
            while True:
                await asyncio.sleep(self._random.expovariate(self._per_s))
                requests.create_task(self._ask(http))

    async def _ask(self, http: httpx.AsyncClient) -> None:
        draw = self._random
        tokens = min(_MOST_TOKENS, max(8, round(draw.lognormvariate(0, _SIGMA) * _MEDIAN_TOKENS)))
        shared = _SHARED[: tokens // 2] if draw.random() < 0.3 else []
        prompt = shared + [draw.randrange(200) for _ in range(tokens - len(shared))]
        body = {"model": MODEL, "prompt": prompt, "max_tokens": draw.randrange(6, 40), "temperature": 0}
        headers = {"x-prfaas-ttft-deadline-s": "0.15"} if draw.random() < 0.01 else {}
        answer = await http.post("/v1/completions", json=body, headers=headers)
        self.answered += answer.status_code == 200
