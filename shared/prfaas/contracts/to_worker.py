"""What a prefill or decode worker hears as one that may be moved between the two roles."""

import msgspec

from prfaas.contracts.to_scheduler import Role


class ChangeRole(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Finish what runs, then go on as a worker of `role` with the same name."""

    role: Role
    drain_s: float
    """How long what runs may take; later the worker stays what it is, and takes new work again."""


class RoleChanging(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It drains from now on. Its heartbeats say how it goes on."""


class RoleKept(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    reason: str


ChangeRoleReply = RoleChanging | RoleKept
