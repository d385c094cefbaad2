"""Two pd sites that share a prefill site, and the keys with which an attack may begin."""

import asyncio
from pathlib import Path
from typing import NamedTuple

import nats
from nats.aio.client import Client

from prfaas.bus.endpoint import NatsEndpoint
from prfaas.site.sites import Description, Role, Service, Site, SiteKind
from prfaas.stack.running_sites import RunningSites

HOME, OTHER, FAR = "local", "east", "remote"
"""The pd site that is attacked, a second pd site, and the prefill site that both use."""


def description() -> Description:
    def pd_services(site: str) -> list[Service]:
        roles = {"gateway": Role.GATEWAY, "scheduler": Role.SCHEDULER, "d0": Role.DECODE_WORKER, "p0": Role.PREFILL_WORKER}
        return [Service(site=site, role=role, name=name) for name, role in (roles | {"probe": Role.BANDWIDTH_PROBE}).items()]

    far_roles = {"scheduler": Role.SCHEDULER, "p0": Role.PREFILL_WORKER, "probe": Role.BANDWIDTH_PROBE}
    far = [Service(site=FAR, role=role, name=name) for name, role in far_roles.items()]
    found = Description(
        model="m",
        sites=(
            Site(name=HOME, kind=SiteKind.PD),
            Site(name=OTHER, kind=SiteKind.PD),
            Site(name=FAR, kind=SiteKind.PRFAAS, dials=(HOME, OTHER)),
        ),
        services=(*pd_services(HOME), *pd_services(OTHER), *far),
    )
    found.validate()
    return found


class Actor(NamedTuple):
    """Somebody with a key. A site as a whole has its operator's key, which may do anything at its own server."""

    name: str
    site: str
    service: str = ""
    """Empty: the site as a whole."""

    def endpoint(self, sites: RunningSites, account: str) -> NatsEndpoint | None:
        """None when this actor has no user in the account."""
        if not self.service:
            return sites.endpoint(self.site, account)
        (service,) = [each for each in sites.description.services if (each.site, each.name) == (self.site, self.service)]
        return sites.service_endpoint(service, account)


ACTORS = (
    *(Actor(f"{HOME} {name}", HOME, name) for name in ("gateway", "scheduler", "d0", "p0", "probe")),
    *(Actor(f"{FAR} {name}", FAR, name) for name in ("scheduler", "p0", "probe")),
    Actor(f"all of {FAR}", FAR),
    Actor(f"all of {OTHER}", OTHER),
)


async def connect(endpoint: NatsEndpoint, refusals: list[str] | None = None) -> Client:
    """A plain client of NATS. The server's refusals are collected."""

    async def note(error: Exception) -> None:
        if refusals is not None:
            refusals.append(str(error))

    seed = None if endpoint.nkey_seed_file is None else await asyncio.to_thread(Path(endpoint.nkey_seed_file).read_text)
    client = Client()
    try:
        await client.connect(endpoint.url, nkeys_seed_str=seed, allow_reconnect=False, error_cb=note)
    except nats.errors.Error:
        await client.close()
        raise
    return client
