"""Requests under way and the last ones that ended, by tenant. Pure.

Each request costs the same few operations, watched or not. What is kept is bounded: one tenant's requests never push out
another's, and of more tenants than TENANTS the one that was quiet for longest is forgotten.
"""

from collections import OrderedDict, deque
from typing import Final

from prfaas_gateway.console.seen_request import SeenRequest
from prfaas_gateway.console.slots import Slots

KEPT: Final = 50
"""Ended requests that are kept of each tenant."""
TENANTS: Final = 64


class Requests:
    """Requests of one tenant, or of all."""

    def __init__(self, kept: int) -> None:
        self.running: dict[str, SeenRequest] = {}
        self.ended: deque[SeenRequest] = deque(maxlen=kept)
        self.slots = Slots()

    def latest(self, limit: int) -> list[SeenRequest]:
        """Returns the latest to arrive of those under way, and as many as there is room for of those that ended last."""
        running = list(self.running.values())[-limit:]
        room = limit - len(running)
        return [*running, *(list(self.ended)[-room:] if room else [])]

    def find(self, request_id: str) -> SeenRequest | None:
        found = self.running.get(request_id)
        return found or next((each for each in self.ended if each.request_id == request_id), None)


class RecentRequests:
    """All requests of a gateway: of each tenant, and of all together."""

    def __init__(self, kept: int = KEPT) -> None:
        """`kept`: ended requests to keep of each tenant; with 0 nothing is kept at all."""
        self._kept = kept
        self._all = Requests(kept)
        self._of_tenant: OrderedDict[str, Requests] = OrderedDict()
        """The tenant that was quiet for longest first."""

    def began(self, seen: SeenRequest) -> None:
        for requests in self._showing(seen):
            requests.running[seen.request_id] = seen

    def first_token(self, seen: SeenRequest, unix_s: float) -> None:
        if seen.ttft_s is not None:
            for requests in self._showing(seen):
                requests.slots.first_token(seen.ttft_s, unix_s)

    def ended(self, seen: SeenRequest, unix_s: float) -> None:
        for requests in self._showing(seen):
            requests.running.pop(seen.request_id, None)
            requests.ended.append(seen)
            requests.slots.ended(seen.became, unix_s)

    def of(self, tenant: str | None) -> Requests:
        """Returns the requests of a tenant; None: of all."""
        return self._all if tenant is None else self._of_tenant.get(tenant) or Requests(self._kept)

    def validate(self) -> None:
        assert len(self._of_tenant) <= TENANTS
        for requests in (self._all, *self._of_tenant.values()):
            assert len(requests.ended) <= self._kept
            requests.slots.validate()

    def _showing(self, seen: SeenRequest) -> tuple[Requests, ...]:
        """Returns the lists that show the request."""
        if not self._kept:
            return ()
        if not seen.tenant:
            return (self._all,)
        own = self._of_tenant.get(seen.tenant)
        if own is None:
            own = self._of_tenant[seen.tenant] = Requests(self._kept)
            if len(self._of_tenant) > TENANTS:
                self._of_tenant.popitem(last=False)
        self._of_tenant.move_to_end(seen.tenant)
        return self._all, own
