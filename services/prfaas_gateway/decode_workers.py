"""The decode workers of the own site, as their heartbeats show them."""

from collections.abc import Sequence

from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat


class DecodeWorkers:
    """Keeps the latest heartbeat of each decode worker. Pure."""

    def __init__(self, site: str) -> None:
        self._site = site
        self._beat_by_worker: dict[str, Heartbeat] = {}

    def heard(self, key: str, beat: Heartbeat | None) -> str | None:
        """Takes a heartbeat, or None for one that has stopped. Returns the worker where it is a decode worker of this site."""
        site, _, worker = key.partition(f".{Role.DECODE}.")
        if site != self._site or not worker:
            return None
        if beat is None:
            self._beat_by_worker.pop(worker, None)
        else:
            self._beat_by_worker[worker] = beat
        return worker

    def unserved(self, models: Sequence[str]) -> list[str]:
        """Returns the models without a live worker that takes requests."""
        served = {beat.model for beat in self._beat_by_worker.values() if not beat.draining}
        return [model for model in models if model not in served]
