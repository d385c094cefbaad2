"""Gateways that have requests here, and which of them are gone. A gateway is one process: a name and an incarnation."""

from collections.abc import Collection
from typing import Final, NamedTuple

ABSENT_S: Final = 1.5
"""Time without a subscription of a gateway's process after which it is gone. One that lost its connection dials every 0.2 s."""
SILENT_S: Final = 15.0
"""Time after its last answer at which a gateway that still subscribes is gone: its process may be stopped for a while."""


class GatewayProcess(NamedTuple):
    """One gateway."""

    name: str
    incarnation: str


class Gateways:
    """Pure: answers to the question "are you there" in, losses out. Moments are of any one clock, in s."""

    def __init__(self) -> None:
        self._absent_since: dict[GatewayProcess, float] = {}
        self._answered_at: dict[GatewayProcess, float] = {}

    def forget_others(self, present: Collection[GatewayProcess]) -> None:
        """Drops what is known of gateways that have no request here."""
        for known in (self._absent_since, self._answered_at):
            for gateway in known.keys() - set(present):
                del known[gateway]

    def handle_answer(self, gateway: GatewayProcess, now_s: float) -> None:
        self._absent_since.pop(gateway, None)
        self._answered_at[gateway] = now_s

    def handle_absence(self, gateway: GatewayProcess, now_s: float) -> bool:
        """Takes that the process does not listen. Returns whether it is gone."""
        return now_s - self._absent_since.setdefault(gateway, now_s) >= ABSENT_S

    def handle_silence(self, gateway: GatewayProcess, now_s: float) -> bool:
        """Takes that no answer came. Returns whether it is gone: one that has never answered may be of a kind that does not."""
        self._absent_since.pop(gateway, None)
        return now_s - self._answered_at.get(gateway, now_s) >= SILENT_S
