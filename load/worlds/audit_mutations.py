"""Bugs made by hand of audits, and of the distrust that follows."""

from typing import Any, Final

from load.worlds.mutation import Mutation
from prfaas_decode_worker.kv_comparison import KVComparison, Verdict
from prfaas_scheduler.breaker import Breaker


def _agrees(_: Any) -> Any:
    return lambda comparison, tolerance=None: Verdict.AGREED


def _compares_elsewhere(compare: Any) -> Any:
    """Keeps the first range of each layer that it compares."""

    def changed(comparison: Any, piece: Any) -> None:
        layer, start, end = piece.range
        if start and not comparison._is_state(layer):
            piece = piece._replace(range=piece.range._replace(start=comparison._needed[layer].start))
            piece = piece._replace(range=piece.range._replace(end=piece.range.start + end - start))
        compare(comparison, piece)

    return changed


def _trusts(_: Any) -> Any:
    return lambda breaker, now_s: None


AUDIT_MUTATIONS: Final = (
    Mutation("an audit agrees with any KV", KVComparison, "verdict", _agrees, ("lie",)),
    Mutation("an audit compares other tokens", KVComparison, "compare", _compares_elsewhere, ("audit",)),
    Mutation("a site that lied gets prompts as before", Breaker, "distrust", _trusts, ("lie",)),
)
