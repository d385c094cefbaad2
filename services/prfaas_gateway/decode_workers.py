"""The decode workers of the own site, as their heartbeats show them."""

from collections.abc import Sequence

from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat


class DecodeWorkers:
    """Pure: heartbeats and silences in, what is there out."""

    def __init__(self, site: str) -> None:
        self._site = site
        self._beats: dict[str, Heartbeat] = {}
        """By worker."""

    def heard(self, key: str, beat: Heartbeat | None) -> str | None:
        """Takes a heartbeat, or None for one that has stopped. Returns the worker where it is a decode worker of this site."""
        site, _, worker = key.partition(f".{Role.DECODE}.")
        if site != self._site or not worker:
            return None
        if beat is None:
            self._beats.pop(worker, None)
        else:
            self._beats[worker] = beat
        return worker

    def unserved(self, models: Sequence[str]) -> list[str]:
        """Returns the models that no live worker takes requests for."""
        served = {beat.model for beat in self._beats.values() if not beat.draining}
        return [model for model in models if model not in served]
