"""Room in a full queue for tenants that have had far less than their share.

What was accepted is not refused any more. So where one tenant fills the queue, a prompt of another that must begin early finds no
room, however little its tenant has had. When that happens, newcomers of tenants that have their share, or more, must leave time:
they are accepted as if they had to begin some seconds earlier. These seconds grow with each such refusal, and shrink with each
arrival, so that a few of a hundred are still refused: the last of them would cost the others many times as much.
"""

FAR_BELOW = 0.75
"""Part of its weighted share of the recent work up to which a tenant is protected. Of tenants that ask alike half are a little
below: all would shorten one another's queue for nothing."""
UP_S = 1.0
"""Least seconds to leave more after a refusal of a protected tenant."""
DOWN_S = 0.05
"""Seconds to leave less with each arrival of a protected tenant: about one of 20 is refused."""
FORGOTTEN_S = 0.002
"""Seconds to leave less with each other arrival."""
MAX_S = 7.0


class TenantRoom:
    """A tenant comes in by the work that it has had lately, to its weighted share."""

    def __init__(self) -> None:
        self._leave_s = 0.0

    def arrived(self, of_share: float) -> None:
        self._leave_s = max(0.0, self._leave_s - (DOWN_S if of_share < FAR_BELOW else FORGOTTEN_S))

    def missed(self, of_share: float, late_s: float) -> None:
        """Notes that a job was refused or put off: the queue was too long for it by `late_s`."""
        if of_share < FAR_BELOW:
            self._leave_s = min(self._leave_s + max(UP_S, late_s), MAX_S)

    def leave_s(self, of_share: float) -> float:
        """Seconds that a newcomer must leave."""
        return self._leave_s if of_share >= 1 else 0.0
