"""Bugs made by hand of the leadership among schedulers."""

from typing import Any, Final

from load.worlds.mutation import Mutation
from prfaas_scheduler.leadership.events import ConnectionLost
from prfaas_scheduler.leadership.leadership_core import LeadershipCore


def _outlasts_its_lease(_: Any) -> Any:
    return lambda core, now_s: core._leading


def _hears_no_break(handle: Any) -> Any:
    def changed(core: Any, event: Any) -> Any:
        return [] if isinstance(event, ConnectionLost) else handle(core, event)

    return changed


def _same_term(claim: Any) -> Any:
    def changed(core: Any, now_s: float) -> Any:
        return core._store(max(1, core.term), now_s)

    return changed


def _steals(read: Any) -> Any:
    def changed(core: Any, lease: Any, revision: int, now_s: float) -> Any:
        told = read(core, lease, revision, now_s)
        return told if core._leading or core._leaving else core._claim(now_s)

    return changed


def _keeps_waiting(claim: Any) -> Any:
    def changed(core: Any, now_s: float) -> Any:
        return claim(core, now_s) if core._lease is None else []

    return changed


LEADERSHIP_MUTATIONS: Final = (
    Mutation("a leader outlasts its lease", LeadershipCore, "leads", _outlasts_its_lease, ("stop",)),
    Mutation("a leader goes on after a break", LeadershipCore, "handle", _hears_no_break, ("unplug",)),
    Mutation("a term is counted twice", LeadershipCore, "_claim", _same_term, ("kill", "stop", "unplug")),
    Mutation("a lease is taken from a leader that lives", LeadershipCore, "_read", _steals, ("kill", "stop", "unplug")),
    Mutation("a lease is never taken over", LeadershipCore, "_claim", _keeps_waiting, ("kill",), "single"),
)
