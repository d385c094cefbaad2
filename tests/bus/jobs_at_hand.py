"""Jobs for one site and what becomes of them, for tests."""

import asyncio

from prfaas.bus.control import ControlBus
from prfaas.bus.job_consumer import JobConsumer
from prfaas.bus.taken_jobs import TakenJob
from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.wire import pack_tokens

DEADLINE_S = 60.0
SITE, HOME, MODEL = "remote", "local", "tiny.model"
SERVES = [HOME]


def make_job(transfer_id: str = "t1", attempt: int = 1, timeout_s: float = 60.0, tokens: int = 3) -> PrefillJob:
    transfer = KVTransfer(
        transfer_id=transfer_id,
        attempt=attempt,
        bucket=subjects.kv_bucket(HOME, SITE),
        nuid="n",
        prefill_tokens=tokens,
        fingerprint="f",
    )
    return PrefillJob(
        request_id="r",
        model=MODEL,
        transfer=transfer,
        token_ids=pack_tokens(range(tokens)),
        reply_to=subjects.prefill_progress(HOME, "d1"),
        decode_site=HOME,
        timeout_s=timeout_s,
    )


async def take(consumer: JobConsumer) -> TakenJob:
    taken = await consumer.take(DEADLINE_S)
    assert taken is not None
    return taken


async def all_waited_for(consumer: JobConsumer) -> None:
    while not all(source.pulling() for source in (consumer._own, *consumer._queued)):
        await asyncio.sleep(0)


async def stored(bus: ControlBus) -> int:
    streams = subjects.jobs_stream(SITE, HOME), subjects.dispatched_stream(SITE)
    return sum([(await bus.jetstream().stream_info(stream)).state.messages for stream in streams])


async def none_stored(bus: ControlBus) -> None:
    """Returns once no job is stored: the server hears an acknowledgement at its leisure."""
    async with asyncio.timeout(DEADLINE_S):
        while await stored(bus):
            await asyncio.sleep(0.01)
