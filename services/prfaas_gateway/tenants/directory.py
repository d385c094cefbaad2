"""Tenants by their API keys. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from prfaas.secrets.api_keys import parse_key, prefix_group_label, tenant_label
from prfaas.secrets.tenants_file import Limits, Tenants
from prfaas_gateway.tenants.usage import Usage


@dataclass(frozen=True, eq=False)
class Tenant:
    name: str
    """Name in the tenants file; empty where there is none: all clients are one tenant without limits then."""
    label: str
    """Name for other processes and sites: it does not show the tenant's own."""
    usage: Usage
    cache_scope: str = ""
    """Name of those who share cached prefixes, likewise: the tenant alone, or its group."""


class KeyRefusedWhy(StrEnum):
    MISSING = "missing"
    UNKNOWN = "unknown"
    REVOKED = "revoked"


class KeyRefused(NamedTuple):
    why: KeyRefusedWhy
    key_id: str = ""
    """Public part of the key; empty for what is no key of ours."""


class Caller(NamedTuple):
    """The tenant of one request, and the key that it was sent with."""

    tenant: Tenant
    key_id: str = ""


class Directory:
    """Keeps what tenants have used over changes of the file."""

    def __init__(self, tenants: Tenants | None, gateways: int, now_s: float) -> None:
        """Takes None where there is no tenants file."""
        self._gateways = gateways
        self._tenants: dict[str, Tenant] = {}
        self._anyone: Caller | None = None
        if tenants is None:
            self._anyone = Caller(Tenant("", "", Usage(Limits(), 1, now_s)))
        else:
            self.take(tenants, now_s)

    def take(self, tenants: Tenants, now_s: float) -> None:
        """Replaces the content of the file."""
        kept = self._tenants
        self._tenants = {
            name: Tenant(
                name,
                tenant_label(name),
                kept[name].usage if name in kept else Usage(limits, self._gateways, now_s),
                prefix_group_label(limits.prefix_group) if limits.prefix_group else tenant_label(name),
            )
            for name, limits in tenants.tenants.items()
        }
        for name, limits in tenants.tenants.items():
            self._tenants[name].usage.change(limits, now_s)
        self._keys = {key.id: key for key in tenants.keys}
        self._revoked = tenants.revoked_ids

    def find(self, authorization: str) -> Caller | KeyRefused:
        """Returns who sent this `Authorization` header."""
        if self._anyone is not None:
            return self._anyone
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            return KeyRefused(KeyRefusedWhy.MISSING)
        if (key := parse_key(text.strip())) is None:
            return KeyRefused(KeyRefusedWhy.UNKNOWN)
        entry = self._keys.get(key.id)
        # The id is public, and may come with another secret.
        if entry is None or not key.matches(entry.sha256):
            return KeyRefused(KeyRefusedWhy.UNKNOWN, key.id)
        if key.id in self._revoked:
            return KeyRefused(KeyRefusedWhy.REVOKED, key.id)
        return Caller(self._tenants[entry.tenant], key.id)
