"""Where a process finds one NATS account, as its configuration says it."""

import msgspec


class NatsEndpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    url: str
    """`nats://host:port`, or `tls://host:port`: then TLS comes before the first byte, so that no server can
    talk the client down to plain text."""
    nkey_seed_file: str | None = None
    tls_ca_file: str | None = None
