import datetime

import msgspec

from prfaas.secrets.api_keys import ApiKey, make_key
from prfaas.secrets.tenants_file import KeyEntry, Limits, Revocation, Tenants
from prfaas_gateway.tenants.directory import Caller, Directory, KeyRefused, KeyRefusedWhy
from prfaas_gateway.tenants.usage import LimitReached, Place

TODAY = datetime.date(2026, 11, 29)


def tenants(keys: dict[ApiKey, str], revoked: tuple[ApiKey, ...] = (), limits: Limits | None = None) -> Tenants:
    return Tenants(
        tenants={name: limits or Limits() for name in keys.values()},
        keys=tuple(KeyEntry(id=key.id, tenant=name, sha256=key.sha256, created=TODAY) for key, name in keys.items()),
        revoked=tuple(Revocation(id=key.id, at=TODAY) for key in revoked),
    )


def caller(directory: Directory, key: ApiKey) -> Caller:
    found = directory.find(f"Bearer {key.text}")
    assert isinstance(found, Caller)
    return found


def test_all_keys_of_a_tenant_use_its_limits_together() -> None:
    first, second = make_key(), make_key()
    directory = Directory(tenants({first: "acme", second: "acme"}, limits=Limits(requests_at_once=1)), 1, 0.0)
    assert caller(directory, first).tenant is caller(directory, second).tenant
    assert (caller(directory, first).key_id, caller(directory, second).key_id) == (first.id, second.id)
    assert isinstance(caller(directory, first).tenant.usage.enter(0.0), Place)
    assert isinstance(caller(directory, second).tenant.usage.enter(0.0), LimitReached)


def test_a_tenant_shares_cached_prefixes_with_its_group_only() -> None:
    keys = {name: make_key() for name in ("acme", "east", "west", "group")}
    found = tenants({key: name for name, key in keys.items()})
    limits = {name: Limits(prefix_group="group" if name in ("east", "west") else None) for name in keys}
    directory = Directory(msgspec.structs.replace(found, tenants=limits), 1, 0.0)
    scopes = {name: caller(directory, key).tenant.cache_scope for name, key in keys.items()}
    assert scopes["east"] == scopes["west"]
    assert all(scopes.values()) and len(set(scopes.values())) == 3, "a group is no tenant, whatever its name is"
    directory.take(found, 0.0)
    assert len({caller(directory, key).tenant.cache_scope for key in keys.values()}) == 4, "a change of the file takes effect"


def test_a_key_is_rotated_without_losing_what_was_used() -> None:
    old, new = make_key(), make_key()
    limits = Limits(requests_per_minute=2)
    directory = Directory(tenants({old: "acme"}, limits=limits), 1, 0.0)
    assert isinstance(caller(directory, old).tenant.usage.enter(0.0), Place)
    directory.take(tenants({old: "acme", new: "acme"}, limits=limits), 0.0)
    assert isinstance(caller(directory, new).tenant.usage.enter(0.0), Place)
    directory.take(tenants({old: "acme", new: "acme"}, revoked=(old,), limits=limits), 0.0)
    assert directory.find(f"Bearer {old.text}") == KeyRefused(KeyRefusedWhy.REVOKED, old.id)
    assert isinstance(caller(directory, new).tenant.usage.enter(0.0), LimitReached)


def test_refusals_name_the_public_part_of_a_key_at_most() -> None:
    key, other = make_key(), make_key()
    directory = Directory(tenants({key: "acme"}), 1, 0.0)
    forged = f"sk-prfaas-{key.id}-{other.text[-43:]}"
    for header, refused in (
        ("", KeyRefused(KeyRefusedWhy.MISSING)),
        ("Bearer ", KeyRefused(KeyRefusedWhy.MISSING)),
        (f"Basic {key.text}", KeyRefused(KeyRefusedWhy.MISSING)),
        ("Bearer secret", KeyRefused(KeyRefusedWhy.UNKNOWN)),
        (f"Bearer {other.text}", KeyRefused(KeyRefusedWhy.UNKNOWN, other.id)),
        (f"Bearer {forged}", KeyRefused(KeyRefusedWhy.UNKNOWN, key.id)),
    ):
        assert directory.find(header) == refused
    assert isinstance(directory.find(f"bearer  {key.text} "), Caller)


def test_a_revoked_id_with_another_secret_says_nothing_of_the_key() -> None:
    key = make_key()
    directory = Directory(tenants({key: "acme"}, revoked=(key,)), 1, 0.0)
    assert directory.find(f"Bearer sk-prfaas-{key.id}-{'a' * 43}") == KeyRefused(KeyRefusedWhy.UNKNOWN, key.id)


def test_without_a_file_all_clients_may_ask_and_are_told_apart_elsewhere() -> None:
    found = Directory(None, 1, 0.0).find("Bearer anything")
    assert isinstance(found, Caller) and (found.tenant.name, found.tenant.label) == ("", "")
