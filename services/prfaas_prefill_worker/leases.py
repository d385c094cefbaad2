"""Leases of a link that several workers of a site send on: the site's bandwidth probe gives each its part, again and again."""

import asyncio
import contextlib
import time

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError
from prfaas.contracts import subjects
from prfaas.contracts.to_prefill import EgressLease
from prfaas.contracts.to_probe import EgressAsked
from prfaas.contracts.wire import BadMessageError
from prfaas.link.link import Link
from prfaas.telemetry.logs import get_logger
from prfaas.worker.identity import Identity

_TIMEOUT_S = 0.5
_AFTER_FAILURE_S = 0.2
_LEAST_PAUSE_S = 0.01
"""Pause between two questions: transfers that come and go must not become a flood of them."""
BRIEF_S = 0.05
"""Age of a transfer at which a lease is asked for because of it, where no rate holds it back. Those of short prompts are over by
then, and the two questions would cost more than their frames."""

log = get_logger(__name__)


async def give_back(bus: ControlBus, identity: Identity, destination: str) -> None:
    """Tells the probe that nothing will be sent any more. One that does not hear it finds out by the worker's silence."""
    asked = EgressAsked(
        worker=identity.worker,
        destination=destination,
        transfers=0,
        wanted_bytes_per_s=0.0,
        held_bytes_per_s=0.0,
        leaving=True,
    )
    with contextlib.suppress(BusError):
        await bus.publish(subjects.probe_egress(identity.site), asked)


async def keep_leased(link: Link, bus: ControlBus, identity: Identity, destination: str) -> None:
    """Runs until it is cancelled. A probe that does not answer is logged, once until it answers again."""
    answered = True
    while True:
        link.started_or_ended.clear()
        asked_at = time.monotonic()
        asked = link.ask(identity.worker, destination, asked_at)
        try:
            lease = await bus.request(subjects.probe_egress(identity.site), asked, EgressLease, _TIMEOUT_S)
            link.take(lease, asked_at)
            pause_s, failure = lease.ask_again_s, None
        except (BusError, BadMessageError) as error:
            pause_s, failure = _AFTER_FAILURE_S, str(error)
        if answered is not (failure is None):
            answered = failure is None
            log.info("egress_leased" if answered else "egress_unleased", destination=destination, reason=failure)
        await asyncio.sleep(_LEAST_PAUSE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await _changed(link, was_busy=asked.transfers > 0)


async def _changed(link: Link, *, was_busy: bool) -> None:
    """Returns when a first transfer or a last one changes what is wanted: it is told at once."""
    while True:
        await link.started_or_ended.wait()
        if link.core.unbounded(time.monotonic()):
            await asyncio.sleep(BRIEF_S)
        if link.busy is not was_busy or not link.core.unbounded(time.monotonic()):
            return
        link.started_or_ended.clear()
