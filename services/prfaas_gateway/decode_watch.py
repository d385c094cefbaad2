"""Questions to the decode workers that have requests of this gateway, so that a lost one or a lost event costs seconds."""

import asyncio
from collections.abc import Callable
from typing import Final

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, BusTimeoutError, NoRespondersError
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
_ANSWER_TIMEOUT_S: Final = 0.75

log = get_logger(__name__)


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

    async def run(self) -> None:
        while True:
            present = self._in_flight.of_workers()
            self._probes.forget_others(present)
            await asyncio.gather(*(self._look(worker, asked) for worker, asked in present.items()))
            await asyncio.sleep(ASK_ABSENT_EVERY_S if self._probes.any_absent else ASK_EVERY_S)

    async def _look(self, worker: DecodeWorker, asked: dict[str, int]) -> None:
        clock = asyncio.get_running_loop().time
        gone, asked_at = False, clock()
        try:
            subject = subjects.decode_alive(self._site, worker.name)
            running = await self._bus.request(subject, self._asking, Running, _ANSWER_TIMEOUT_S)
        except NoRespondersError:
            gone = self._probes.handle_absence(worker, clock())
        except BusTimeoutError:
            others = self._others(worker.name)
            gone = self._bus.connected and self._probes.handle_silence(worker, asked_at, clock(), others=others)
        except (BusError, BadMessageError):
            return  # its handler failed, or this gateway's own connection is down: that says nothing about its requests
        else:
            taken = self._in_flight.of_workers().get(worker, {})
            for request_id in self._probes.handle_answer(worker, running, asked, taken, clock()):
                log.warning("events_lost", request_id=request_id, worker=worker.name)
                self._in_flight.lose_events(request_id, f"events of decode worker {worker.name!r} did not arrive")
        if gone:
            self._lose(worker)
