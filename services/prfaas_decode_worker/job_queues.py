"""Questions to the queues in which jobs of this decode worker wait, one for all jobs that ask at about the same time."""

import asyncio
import time
from typing import Final

from prfaas.bus.jobs import JobQueue

SHARED_FOR_S: Final = 0.25
"""Age up to which a question serves other jobs too."""


class JobQueues:
    def __init__(self, queue: JobQueue, site: str, model: str) -> None:
        """`site` and `model` of the decode worker."""
        self._queue = queue
        self._site = site
        self._model = model
        self._asked: dict[str, tuple[float, asyncio.Task[int]]] = {}
        """Last question to each site, and when it was asked."""

    async def last_stored(self, site: str, since: float, timeout_s: float) -> int:
        """Returns the sequence number of the last job that a site's queue has stored, asked at `since` or later.

        Raises what JobQueue.last_stored raises."""
        now_s = time.monotonic()
        asked_at, question = self._asked.get(site, (0.0, None))
        if question is None or asked_at < since or now_s - asked_at > SHARED_FOR_S:
            question = asyncio.create_task(self._queue.last_stored(site, self._site, self._model, timeout_s))
            question.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # all who asked may have left
            self._asked[site] = now_s, question
        return await asyncio.shield(question)
