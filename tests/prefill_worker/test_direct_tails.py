"""Small KV for a decode worker that stands still: the worker's next jobs do not wait for it."""

import asyncio
from pathlib import Path

import msgspec

from prfaas.contracts import subjects
from prfaas.stack.nats_server import NatsServer
from tests.bus.submitting import dispatch_to
from tests.prefill_worker.prefix_place import DEADLINE_S, SITE, prefill_worker, prompt

SILENT = "silent"
JOBS = 6


async def test_a_decode_worker_that_stands_still_keeps_no_job_from_being_begun(tmp_path: Path) -> None:
    async with NatsServer(tmp_path / "nats") as server, prefill_worker(server) as place:
        came: set[str] = set()
        sid = place.lane.subscribe(
            subjects.kv_direct(subjects.kv_bucket(SITE, SITE), SILENT, "*"), lambda message: came.add(message.subject)
        )
        for number in range(JOBS):
            receiver, job, _ = await place.make_job(prompt(70, seed=number))
            await receiver.close()
            silent = msgspec.structs.replace(job.transfer, direct_inbox=SILENT)
            await dispatch_to(place.bus, SITE, place.name, msgspec.structs.replace(job, transfer=silent))
        await place.prefill(prompt(70, seed=JOBS))
        assert len(came) == JOBS, "all of them were computed and sent before it"
        place.lane.unsubscribe(sid)  # nobody hears any more: their attempts end
        async with asyncio.timeout(DEADLINE_S):
            while place.counted("prfaas_prefill_jobs_total", result="failed") < JOBS:
                await asyncio.sleep(0.01)
