"""Arrival times of bytes, pure: serialisation at the link's rate behind what is queued already, then propagation."""

import random

from prfaas.site.link_shape import LinkShape

_PACKET_BYTES = 1460


class Stream:
    """One direction of one connection: its bytes arrive in order."""

    def __init__(self) -> None:
        self.last_arrival_s = 0.0


class Lane:
    """One direction of a link. Times are seconds of the caller's clock, minus all the time that the lane was halted."""

    def __init__(self, shape: LinkShape, seed: int = 0) -> None:
        self.shape = shape
        self._random = random.Random(seed)
        self._free_at_s = 0.0
        self._halted_at_s: float | None = None
        self._halted_s = 0.0

    @property
    def halted(self) -> bool:
        return self._halted_at_s is not None

    def halt(self, now_s: float) -> None:
        """Freezes everything on the way: nothing arrives, nothing is lost, nothing drains from the queue."""
        if self._halted_at_s is None:
            self._halted_at_s = now_s

    def go_on(self, now_s: float) -> None:
        if self._halted_at_s is not None:
            self._halted_s += now_s - self._halted_at_s
            self._halted_at_s = None

    def link_time_s(self, now_s: float) -> float:
        return (now_s if self._halted_at_s is None else self._halted_at_s) - self._halted_s

    def clock_time_s(self, link_time_s: float) -> float:
        """Converts a link time back into the caller's clock, while not halted."""
        return link_time_s + self._halted_s

    def backlog_s(self, link_time_s: float) -> float:
        return max(0.0, self._free_at_s - link_time_s)

    def is_full(self, link_time_s: float) -> bool:
        return self.backlog_s(link_time_s) > self.shape.queue_ms / 1e3

    def room_at_s(self) -> float:
        """Returns the moment at which half of the queue is free again, so that senders are back before it runs dry."""
        return self._free_at_s - self.shape.queue_ms / 2e3

    def admit(self, link_time_s: float, size_bytes: int, stream: Stream) -> float:
        """Queues a piece of a stream; returns the link time at which its last byte arrives."""
        shape = self.shape
        if shape.bytes_per_s is not None:
            self._free_at_s = max(self._free_at_s, link_time_s) + size_bytes / shape.bytes_per_s
        arrival_s = max(self._free_at_s, link_time_s) + shape.rtt_ms / 2e3
        if shape.jitter_ms:
            arrival_s += self._random.random() * shape.jitter_ms / 1e3
        if shape.loss:
            packets = -(-size_bytes // _PACKET_BYTES)
            if self._random.random() > (1 - shape.loss) ** packets:
                arrival_s += shape.rtt_ms / 1e3
        stream.last_arrival_s = max(stream.last_arrival_s, arrival_s)
        return stream.last_arrival_s
