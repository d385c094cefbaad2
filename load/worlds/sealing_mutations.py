"""Bugs made by hand of sealed jobs."""

from typing import Any, Final

from load.worlds.mutation import Mutation
from prfaas.sealing import job_seal


def _binds_nothing(_: Any) -> Any:
    return lambda job: b""


SEALING_MUTATIONS: Final = (
    Mutation("open fields of a sealed job are not bound to its seal", job_seal, "_open_fields", _binds_nothing, ("forge",)),
)
