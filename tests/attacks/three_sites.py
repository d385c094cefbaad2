"""Two pd sites that share a prefill site, and the keys with which an attack may begin."""

from typing import NamedTuple

import msgspec

from load.emulated_stack import many_sites
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.site.sites import Description
from prfaas.stack.running_sites import RunningSites

HOME, OTHER, FAR = "local", "east", "remote"
"""The pd site that is attacked, a second pd site, and the prefill site that both use."""


def description() -> Description:
    """`local` pulls prefixes from `remote` too, `east` only within itself."""
    found = many_sites([HOME, OTHER], {FAR: (HOME, OTHER)}, policy="remote_all")
    sites = tuple(msgspec.structs.replace(site, pulls_from=(FAR,) if site.name == HOME else ()) for site in found.sites)
    return msgspec.structs.replace(found, sites=sites)


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
