"""The place of one NATS account, as a process's configuration says it."""

from typing import Final
from urllib.parse import urlsplit

import msgspec

SCHEMES: Final = ("nats", "tls")
UNSET_SITE = "_"


class NatsEndpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Address of a site's server, and the key of the one user that connects with it."""

    url: str
    """`nats://host:port`, or `tls://host:port`. With `tls` the handshake comes before the first byte, so that no server can talk
    the client down to plain text. The default port is 4222."""
    nkey_seed_file: str | None = None
    tls_ca_file: str | None = None
    """Certificates (PEM) that the server's must be signed by; None: those that the host trusts."""
    site: str = UNSET_SITE
    """Name of the server's site, which reply subjects carry. Unset it is the service's own `site`."""

    def problem(self) -> str:
        """Says what is wrong with the URL; empty: nothing."""
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError as error:
            return f"cannot be read ({error})"
        if parts.scheme not in SCHEMES:
            return f"has the scheme {parts.scheme!r}" if parts.scheme else "has no scheme"
        if not parts.hostname or any(char.isspace() for char in self.url):
            return "has no host"
        if port == 0:
            return "has the port 0"
        if parts.path.strip("/") or parts.query or parts.fragment:
            return "has more than a host and a port"
        return ""
