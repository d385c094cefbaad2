"""The place of one NATS account, as a process's configuration says it."""

from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

SCHEMES: Final = ("nats", "tls")
UNSET_SITE = "_"


class NatsEndpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Address of a site's server or servers, and the key of the one user that connects with it."""

    url: str
    """`nats://host:port`, or `tls://host:port`; those of a cluster's servers are separated by commas. With `tls` the handshake
    comes before the first byte, so that no server can talk the client down to plain text. The default port is 4222."""
    nkey_seed_file: str | None = None
    tls_ca_file: str | None = None
    """Certificates (PEM) that the server's must be signed by; None: those that the host trusts."""
    site: str = UNSET_SITE
    """Name of the server's site, which reply subjects carry. Unset it is the service's own `site`."""
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    """Servers of the site's cluster that keep each job, announcement and lease. KV is kept by one."""

    @property
    def urls(self) -> list[str]:
        """URL of each server."""
        return self.url.split(",")

    def problem(self) -> str:
        """Says what is wrong with the URL; empty: nothing."""
        schemes = {url.partition("://")[0] for url in self.urls}
        found = next(filter(None, map(_problem, self.urls)), "")
        return found or ("has servers with and without TLS" if len(schemes) > 1 else "")


def _problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"cannot be read ({error})"
    if parts.scheme not in SCHEMES:
        return f"has the scheme {parts.scheme!r}" if parts.scheme else "has no scheme"
    if not parts.hostname or any(char.isspace() for char in url):
        return "has no host"
    if port == 0:
        return "has the port 0"
    if parts.path.strip("/") or parts.query or parts.fragment:
        return "has more than a host and a port"
    return ""
