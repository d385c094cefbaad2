"""The tenants of a gateway: a TOML file of mode 0600 with their limits and the hashes of their API keys.

`prfaas keys` appends to it, so that what people write in it stays: a key is revoked by an entry of its own.
"""

import datetime
import fcntl
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import tomli_w

from prfaas.secrets.api_keys import ApiKey
from prfaas.secrets.secret_files import SecretFileError, read_secret, write_secret

Amount = Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
TenantName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]
KeyId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}$")]


class TenantsError(ValueError):
    """A tenants file that cannot be used; the message is a sentence that names the file."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Bounds on one tenant; None: no bound."""

    requests_per_minute: Amount | None = None
    tokens_per_minute: Amount | None = None
    """Tokens of prompts and answers."""
    requests_at_once: Amount | None = None
    link_bytes_per_day: Amount | None = None
    """Bytes of KV that cross a link for the tenant."""
    prefix_group: TenantName | None = None
    """Tenants that name the same group share cached prefixes, and can tell by the time of an answer what the others have sent.
    None: the tenant shares them with no other."""


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    id: KeyId
    tenant: TenantName
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    created: datetime.date


class Revocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    id: KeyId
    at: datetime.date


class Tenants(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    tenants: dict[TenantName, Limits] = {}
    keys: tuple[KeyEntry, ...] = ()
    revoked: tuple[Revocation, ...] = ()

    @property
    def revoked_ids(self) -> frozenset[str]:
        return frozenset(entry.id for entry in self.revoked)

    def validate(self) -> None:
        """Raises ValueError, with a part of a sentence."""
        seen: set[str] = set()
        for key in self.keys:
            if key.tenant not in self.tenants:
                raise ValueError(f"key {key.id} is of the tenant {key.tenant!r}, which has no table [tenants.{key.tenant}]")
            if key.id in seen:
                raise ValueError(f"two keys have the id {key.id}")
            seen.add(key.id)
        for entry in self.revoked:
            if entry.id not in seen:
                raise ValueError(f"the revoked key {entry.id} is none of the file's keys")


def load_tenants(path: Path) -> Tenants:
    """Raises TenantsError."""
    try:
        return _parsed(read_secret(path))
    except SecretFileError as error:
        raise TenantsError(str(error)) from error
    except ValueError as error:
        raise TenantsError(f"the tenants file {path} cannot be used: {error}") from error


def add_key(path: Path, key: ApiKey, tenant: str, limits: Limits, today: datetime.date) -> None:
    """Appends a key, and the tenant where it is new; makes the file where there is none. Raises TenantsError."""
    with _appending(path) as (tenants, entries):
        if tenant in tenants.tenants and limits not in (Limits(), tenants.tenants[tenant]):
            raise TenantsError(f"{path} has other limits for the tenant {tenant!r}; change its table [tenants.{tenant}] there")
        if tenant not in tenants.tenants:
            given = {name: value for name, value in msgspec.to_builtins(limits).items() if value is not None}
            entries.append((f"[tenants.{tenant}]", given))
        entry = KeyEntry(id=key.id, tenant=tenant, sha256=key.sha256, created=today)
        entries.append(("[[keys]]", msgspec.to_builtins(entry, builtin_types=(datetime.date,))))


def revoke_key(path: Path, key_id: str, today: datetime.date) -> None:
    """Appends a revocation. Raises TenantsError for an id that the file does not have, or has revoked."""
    with _appending(path) as (tenants, entries):
        if key_id not in {key.id for key in tenants.keys}:
            raise TenantsError(f"{path} has no key {key_id!r}")
        if key_id in tenants.revoked_ids:
            raise TenantsError(f"the key {key_id} of {path} is revoked already")
        entries.append(("[[revoked]]", {"id": key_id, "at": today}))


def _parsed(content: bytes) -> Tenants:
    """Raises ValueError."""
    try:
        table = tomllib.loads(content.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    tenants = msgspec.convert(table, Tenants)
    tenants.validate()
    return tenants


@contextmanager
def _appending(path: Path) -> Iterator[tuple[Tenants, list[tuple[str, dict[str, object]]]]]:
    """Yields the file's content and a list of tables to append, each with its header.

    Writes them in one step, if the file with them is a valid one.
    Raises TenantsError."""
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise TenantsError(f"the folder of {path} cannot be opened: {error.strerror}") from error
    try:
        # Two commands at once must not lose one another's entries.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        content = read_secret(path) if path.exists() else b""
        entries: list[tuple[str, dict[str, object]]] = []
        yield (_parsed(content), entries)
        appended = [f"{header}\n{tomli_w.dumps(table)}" for header, table in entries]
        content = "\n".join([f"{content.decode().rstrip()}\n".lstrip(), *appended]).lstrip().encode()
        _parsed(content)
        write_secret(path, content)
    except TenantsError:
        raise
    except SecretFileError as error:
        raise TenantsError(str(error)) from error
    except ValueError as error:
        raise TenantsError(f"the tenants file {path} cannot be used: {error}") from error
    except OSError as error:
        raise TenantsError(f"the tenants file {path} cannot be written: {error.strerror}") from error
    finally:
        os.close(descriptor)
