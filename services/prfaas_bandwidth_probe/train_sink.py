"""End of other sites' trains: counts their parts, and tells the sender how they came."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from nats.aio.msg import Msg

from prfaas.bus.control import ControlBus
from prfaas.contracts.to_probe import TrainPart, TrainReport
from prfaas.contracts.wire import BadMessageError, decode, encode

REMEMBERED_TRAINS = 64
"""Trains of one site whose end has not come."""
MAX_PARTS = 4096
"""Parts of one train that are remembered: four times those of the longest that is sent."""
_LEAST_S = 1e-4


class Arrival(NamedTuple):
    seconds: float
    size_bytes: int


def tail_bytes_per_s(arrivals: Sequence[Arrival]) -> float:
    """Least rate from a part between the middle and three quarters to the last part; 0: all came at once.

    The first half is TCP's slow start. Parts that were held up, by a lost segment or a busy process, come all at once: from such
    a part the rest looks too fast, but hardly from every one."""
    last_s = arrivals[-1].seconds
    left_bytes, least = 0, inf
    for number in range(len(arrivals) - 1, len(arrivals) // 2 - 1, -1):
        since_s = last_s - arrivals[number].seconds
        if number <= 3 * len(arrivals) // 4 and since_s > _LEAST_S:
            least = min(least, left_bytes / since_s)
        left_bytes += arrivals[number].size_bytes
    return 0.0 if least == inf else least


class TrainSink:
    def __init__(self, bulk: ControlBus) -> None:
        self._bulk = bulk
        self._trains: dict[str, OrderedDict[str, list[Arrival]]] = {}
        """Arrivals by subject, which names the sending site, and train: no site pushes out the trains of another."""

    async def receive(self, message: Msg) -> None:
        part = decode(message.data, TrainPart)
        trains = self._trains.setdefault(message.subject, OrderedDict())
        arrivals = trains[part.train_id] = trains.pop(part.train_id, [])
        if len(arrivals) >= MAX_PARTS:
            del trains[part.train_id]
            raise BadMessageError(f"train {part.train_id!r} has more than {MAX_PARTS} parts")
        arrivals.append(Arrival(time.perf_counter(), len(message.data)))
        while len(trains) > REMEMBERED_TRAINS:  # those whose last part was lost
            trains.popitem(last=False)
        if message.reply:
            del trains[part.train_id]
            report = TrainReport(parts=len(arrivals), tail_bytes_per_s=tail_bytes_per_s(arrivals))
            await self._bulk.publish_raw(message.reply, encode(report))
