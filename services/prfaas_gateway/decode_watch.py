"""Questions to the decode workers that have requests of this gateway, so that a lost one or a lost event costs seconds."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from msgspec.structs import replace

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, NoRespondersError
from prfaas.bus.repeated_question import RepeatedQuestion
from prfaas.contracts import subjects
from prfaas.contracts.to_decode import AskRunning
from prfaas.contracts.to_gateway import Running
from prfaas.contracts.wire import BadMessageError
from prfaas.telemetry.logs import get_logger
from prfaas_gateway.decode_probes import DecodeProbes
from prfaas_gateway.decode_workers import DecodeWorker
from prfaas_gateway.in_flight import InFlight

ASK_EVERY_S: Final = 0.5
ASK_ABSENT_EVERY_S: Final = 0.25
"""Interval while none listens under a worker's name."""
ANSWER_WAIT_S: Final = 0.75
"""Time after a question at which the next one is asked. The answer counts whenever it comes."""

log = get_logger(__name__)


class _Answer(NamedTuple):
    asked: dict[str, int]
    """The worker's requests when it was asked, and the events of each that had come."""
    running: Running


class DecodeWatch:
    """Asks each decode worker how far it is, while it has requests of this gateway."""

    def __init__(
        self,
        bus: ControlBus,
        site: str,
        asking: AskRunning,
        in_flight: InFlight,
        others: Callable[[str], bool],
        lose: Callable[[DecodeWorker], None],
    ) -> None:
        """`others` tells whether another worker than the named one could go on; `lose` takes one that is gone."""
        self._bus = bus
        self._site = site
        self._asking = asking
        self._in_flight = in_flight
        self._others = others
        self._lose = lose
        self._probes = DecodeProbes()
        self._questions: dict[DecodeWorker, RepeatedQuestion[_Answer]] = {}

    async def run(self) -> None:
        try:
            while True:
                present = self._in_flight.of_workers()
                self._probes.forget_others(present)
                for worker in self._questions.keys() - present.keys():
                    self._questions.pop(worker).end()
                await asyncio.gather(*(self._look(worker) for worker in present))
                await asyncio.sleep(ASK_ABSENT_EVERY_S if self._probes.any_absent else ASK_EVERY_S)
        finally:
            for question in self._questions.values():
                question.end()

    async def _look(self, worker: DecodeWorker) -> None:
        clock = asyncio.get_running_loop().time
        gone, asked_at = False, clock()
        try:
            answer = await self._question(worker).again(ANSWER_WAIT_S)
        except NoRespondersError:
            gone = self._probes.handle_absence(worker, clock())
        except (BusError, BadMessageError):
            return  # its handler failed, or this gateway's own connection is down: that says nothing about its requests
        else:
            if answer is None:
                others = self._others(worker.name)
                gone = self._bus.connected and self._probes.handle_silence(worker, asked_at, clock(), others=others)
            else:
                self._hear(worker, answer)
        if gone:
            self._lose(worker)

    def _hear(self, worker: DecodeWorker, answer: _Answer) -> None:
        taken = self._in_flight.of_workers().get(worker, {})
        now_s = asyncio.get_running_loop().time()
        for request_id in self._probes.handle_answer(worker, answer.running, answer.asked, taken, now_s):
            log.warning("events_lost", request_id=request_id, worker=worker.name)
            self._in_flight.lose_events(request_id, f"events of decode worker {worker.name!r} did not arrive")

    def _question(self, worker: DecodeWorker) -> RepeatedQuestion[_Answer]:
        if worker not in self._questions:
            ask = partial(self._ask, worker)
            self._questions[worker] = RepeatedQuestion(ask, self._probes.patience_with(worker))
        return self._questions[worker]

    async def _ask(self, worker: DecodeWorker, timeout_s: float) -> _Answer:
        # Before the question leaves: a request that is accepted meanwhile may be missing in its answer, however late that comes.
        asked = self._in_flight.of_workers().get(worker, {})
        subject = subjects.decode_alive(self._site, worker.name)
        question = replace(self._asking, resend=self._probes.resend(asked, self._in_flight.gaps()))
        return _Answer(asked, await self._bus.request(subject, question, Running, timeout_s))
