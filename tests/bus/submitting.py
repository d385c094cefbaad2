import asyncio

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import NoRespondersError
from prfaas.bus.jobs import JobQueue
from prfaas.contracts.to_prefill import PrefillJob


async def submit_once_joined(bus: ControlBus, site: str, job: PrefillJob, *, timeout_s: float) -> None:
    """Submits to another site's queue made a moment ago: the interest in its subjects has yet to cross the link."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                return await JobQueue(bus).submit(site, job, timeout_s=timeout_s)
            except NoRespondersError:
                await asyncio.sleep(0.02)
