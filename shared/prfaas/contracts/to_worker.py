"""Messages that a worker of either role receives."""

import msgspec

from prfaas.contracts.terms import Role


class ChangeRole(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Finish what runs, then go on as a worker of `role` with the same name. Answered by RoleChanging | RoleKept."""

    role: Role
    drain_s: float
    """Time that running work may take; after that the worker keeps its role and takes new work again."""
