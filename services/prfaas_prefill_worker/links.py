"""Links of a prefill worker, one per decode site: all transfers of a link share one window and one budget."""

import asyncio
import contextlib
from collections.abc import Iterable

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError
from prfaas.contracts import subjects
from prfaas.contracts.to_probe import TransferMeasured
from prfaas.link.config import LinkConfig
from prfaas.link.link import Link
from prfaas.process.tasks import Tasks
from prfaas.worker.identity import Identity
from prfaas_prefill_worker.leases import give_back, keep_leased


class Links:
    def __init__(self, identity: Identity, bus: ControlBus, tasks: Tasks, config: LinkConfig) -> None:
        self._identity = identity
        self._bus = bus
        self._tasks = tasks
        self._config = config
        self._links: dict[str, Link] = {}
        self._leasing: dict[str, asyncio.Task[None]] = {}

    def open(self, decode_sites: Iterable[str]) -> None:
        """Asks for leases before there is something to send: the first transfer finds one."""
        for decode_site in decode_sites:
            self.to(decode_site)

    def to(self, decode_site: str) -> Link:
        if decode_site not in self._links:
            # Within the site no probe shares the link out.
            remote = decode_site != self._identity.site
            self._links[decode_site] = link = Link(self._config, leased=remote)
            if remote:
                leasing = keep_leased(link, self._bus, self._identity, decode_site)
                self._leasing[decode_site] = self._tasks.spawn(f"leases to {decode_site}", leasing)
        return self._links[decode_site]

    async def leave(self) -> None:
        """Gives all leases back: nothing will be sent any more."""
        for decode_site, leasing in self._leasing.items():
            leasing.cancel()
            await asyncio.wait([leasing])
            await give_back(self._bus, self._identity, decode_site)

    async def report(self, decode_site: str) -> None:
        """Tells the site's bandwidth probe, if there is one, what the link delivered lately."""
        goodput = self._links[decode_site].core.estimate.goodput_bytes_per_s
        if decode_site != self._identity.site and goodput:
            with contextlib.suppress(BusError):
                measured = TransferMeasured(destination=decode_site, goodput_bytes_per_s=goodput)
                await self._bus.publish(subjects.probe_transfers(self._identity.site), measured)
