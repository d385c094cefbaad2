"""Streams and consumers of the prefill jobs of a site, and the bounds of both.

The streams lie in the server's memory. A job is of no use once the server of its KV has lost what was sent, and nats-server takes
nothing into a stream on a disk that was full once, until it is started again. Decode workers notice a job that is lost.
"""

from collections.abc import Iterable
from typing import Final

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from prfaas.bus.control import ControlBus
from prfaas.bus.jetstream import ensure_stream
from prfaas.contracts import subjects

ACK_WAIT_S = 2.0
"""Silence of a worker after which its job is handed to its name again. It takes no notice where it holds the job still.
Where its connection broke just when the job was handed over, this is what that costs."""
QUEUED_ACK_WAIT_S: Final = 2.0
"""Silence of a dispatcher after which the jobs that it holds are given to another process. None of them was begun."""
MAX_DELIVERIES = 3
"""Deliveries of a dispatched job to its worker, which may have died of it."""
MAX_QUEUED_DELIVERIES: Final = 64
"""Deliveries of a queued job, which only changes hands: each dispatcher that ends gives back what it holds."""
MAX_JOBS = 1024
MAX_JOBS_BYTES = 256 << 20
"""Bytes of the streams of queued jobs of a site together, each of which has an equal part; and of the dispatched jobs."""
MAX_JOB_AGE_S = 900.0
"""Longest stay of a job in a stream, also of one whose sender set no time of its own: more than any request may wait. No job is
dispatched twice within this time, so none is dispatched twice at all."""
OWN_CONSUMER_INACTIVE_S: Final = 3600.0
"""Then the server forgets a worker that is gone for good. No living one is busy with one job for so long."""
_DUPLICATE_WINDOW_S: Final = 120.0


def queued_consumer(model: str) -> str:
    """Name of the consumer that a dispatcher, or all workers of a model, take queued jobs from."""
    return f"prefill_{model.replace('.', '_')}"


def worker_consumer(worker: str) -> str:
    """Name of the consumer of the jobs that are dispatched to one worker."""
    return f"worker_{worker}"


async def ensure_job_streams(bus: ControlBus, site: str, decode_sites: Iterable[str]) -> None:
    """Makes the site's streams, or brings them to these bounds. Raises StreamError, BusTimeoutError, NotConnectedError."""
    homes = tuple(decode_sites)
    for home in homes:
        queued = [f"jobs.{site}.{home}.prefill.*"]
        stream = subjects.jobs_stream(site, home)
        await ensure_stream(bus, _work_queue(stream, queued, MAX_JOBS_BYTES // len(homes), _DUPLICATE_WINDOW_S))
    dispatched = [subjects.dispatched_jobs(site, "*")]
    await ensure_stream(bus, _work_queue(subjects.dispatched_stream(site), dispatched, MAX_JOBS_BYTES, MAX_JOB_AGE_S))


def _work_queue(name: str, subjects_of_it: list[str], max_bytes: int, duplicate_window_s: float) -> StreamConfig:
    return StreamConfig(
        name=name,
        subjects=subjects_of_it,
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.MEMORY,
        max_msgs=MAX_JOBS,
        max_bytes=max_bytes,
        max_age=MAX_JOB_AGE_S,
        discard=DiscardPolicy.NEW,
        allow_msg_ttl=True,
        allow_direct=True,
        duplicate_window=duplicate_window_s,
    )
