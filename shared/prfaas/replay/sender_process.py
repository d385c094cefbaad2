"""`python -m prfaas.replay.sender_process`: one client process of a run, so that nothing else delays what it sends.

It is told what to do in lines of JSON on its standard input (`Task`, then `Go`, then perhaps `Stop`), and tells what happens in
lines of JSON on its standard output (`Ready`, `Progress`). It ends when its input does.
"""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable

import msgspec
import uvloop

from prfaas.replay.client import Client, Target
from prfaas.replay.prompts import Prompts, TokenPrompts, WordPrompts
from prfaas.replay.record import Record
from prfaas.replay.rows import RequestRow, row_of
from prfaas.replay.schedule import Schedule, TimedSchedule, UserSchedule, sessions_of, shard
from prfaas.replay.send import Sender
from prfaas.replay.target_check import PromptPlan
from prfaas.replay.workload import Workload

TELL_EVERY_S = 0.25
MAX_LINE_BYTES = 1 << 24
PRIORITY = -10
"""Niceness that is asked for."""


class Task(msgspec.Struct, frozen=True, kw_only=True, tag="task"):
    target: Target
    workload: Workload
    prompts: PromptPlan
    part: int
    parts: int
    users_start_s: list[float] = []
    """Moments at which the users of this process begin."""
    request_ids: str


class Go(msgspec.Struct, frozen=True, tag="go"):
    start_at: float
    """Moment of time.monotonic() that all processes of the machine share."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    cut: bool
    """True when requests under way are ended too."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    pass


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    sent: int
    """Requests that left since the last progress."""
    in_flight: int
    rows: list[RequestRow]
    """Requests that ended since then."""
    cpu_s: float
    """Processor time of this process since its start."""
    peak_rss_bytes: int
    over: bool = False


Told = Task | Go | Stop
Tells = Ready | Progress


def make_prompts(plan: PromptPlan, seed: int) -> Prompts:
    if plan.kind == "tokens":
        return TokenPrompts(seed, range(*plan.vocabulary))
    return WordPrompts(seed, plan.words or ("",), plan.overhead_tokens)


def make_schedule(task: Task) -> Schedule:
    arrivals = shard(task.workload.arrivals(), task.part, task.parts)
    one_clock = task.workload.one_clock
    if not task.workload.users:
        return TimedSchedule(arrivals, fixed=task.workload.fixed_schedule)
    end_s = task.workload.shape.duration_s
    sessions = sessions_of(arrivals, one_clock=one_clock)
    return UserSchedule(sessions, starts_s=task.users_start_s, one_clock=one_clock, end_s=end_s)


class _Process:
    def __init__(self, task: Task) -> None:
        self._task = task
        self._sent = 0
        self._rows: list[RequestRow] = []

    async def run(self, orders: asyncio.StreamReader) -> None:
        # All that exists now lives until the end: the collector need not walk it during the run.
        schedule = make_schedule(self._task)
        prompts = make_prompts(self._task.prompts, self._task.workload.shape.seed)
        gc.collect()
        gc.freeze()
        await _tell(Ready())
        go = await _order(orders)
        if not isinstance(go, Go):
            return
        async with Client(self._task.target, go.start_at) as client:
            sender = Sender(client, schedule, prompts, go.start_at, self._ended, self._left, self._task.request_ids)
            sending = asyncio.create_task(sender.run())
            obeying = asyncio.create_task(_obey(orders, sender))
            try:
                await tell_until_over(sending, lambda over: _tell(self._progress(sender, over=over)))
                await sending
            finally:
                obeying.cancel()

    def _left(self, record: Record) -> None:
        self._sent += 1

    def _ended(self, record: Record) -> None:
        self._rows.append(row_of(record))

    def _progress(self, sender: Sender, *, over: bool) -> Progress:
        rows, self._rows = self._rows, []
        sent, self._sent = self._sent, 0
        rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Progress(
            sent=sent,
            in_flight=sender.in_flight,
            rows=rows,
            cpu_s=time.process_time(),
            peak_rss_bytes=rss_bytes,
            over=over,
        )


async def tell_until_over(work: asyncio.Task[None], tell: Callable[[bool], Awaitable[None]]) -> None:
    """Calls `tell` every TELL_EVERY_S, and a last time with True once the work is over."""
    over = False
    while not over:
        await asyncio.wait([work], timeout=TELL_EVERY_S)
        # Taken before it is told: work that ends meanwhile is told of in the next round.
        over = work.done()
        await tell(over)


async def _obey(orders: asyncio.StreamReader, sender: Sender) -> None:
    """An end of the orders is the end of the process that gave them."""
    while isinstance(order := await _order(orders), Stop):
        if order.cut:
            sender.cut()
        else:
            sender.stop()
    sender.cut()


async def _order(orders: asyncio.StreamReader) -> Told | None:
    line = await orders.readline()
    return msgspec.json.decode(line, type=Told) if line.endswith(b"\n") else None


async def _tell(message: Tells) -> None:
    # In a thread: a reader that is slow must not hold up what is sent.
    await asyncio.to_thread(_write, msgspec.json.encode(message) + b"\n")


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


async def _main() -> None:
    orders = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    task = await _order(orders)
    if isinstance(task, Task):
        await _Process(task).run(orders)


def main() -> int:
    # Signals to the whole group are for the process that gives the orders: without its input this one ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # A client that waits for a processor measures that: where it may, it goes before the services under test.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    try:
        uvloop.run(_main())
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
