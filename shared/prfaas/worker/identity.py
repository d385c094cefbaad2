"""Name of a worker, as all others address it."""

from typing import NamedTuple

from prfaas.contracts.terms import Role


class Identity(NamedTuple):
    site: str
    worker: str
    role: Role
