"""Arrival times of bytes, pure: serialisation at the link's rate behind what is queued already, then propagation."""

import random

import msgspec

_PACKET_BYTES = 1460
_QUANTUM_S = 0.0005
_QUANTUM_LIMITS_BYTES = (2 << 10, 256 << 10)


class LinkShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Shape of a link. Both directions have the rate and the queue to themselves."""

    rate_mbit: float | None = None
    """Rate in 10^6 bits of TCP payload per second; None: unlimited."""
    rtt_ms: float = 0.0
    """Round trip time; half of it in each direction."""
    jitter_ms: float = 0.0
    """Upper bound of what is added to the one-way delay, uniformly from 0; order is kept."""
    loss: float = 0.0
    """Chance per packet of 1460 bytes that its connection stalls for one retransmission (an RTT)."""
    queue_ms: float = 20.0
    """Bytes that the bottleneck queues before it pushes back on the senders."""

    def __post_init__(self) -> None:
        if self.rate_mbit is not None and self.rate_mbit <= 0:
            raise ValueError(f"rate-mbit is {self.rate_mbit}, expected more than 0 (leave it out for an unlimited link)")
        for name, value in (("rtt-ms", self.rtt_ms), ("jitter-ms", self.jitter_ms)):
            if value < 0:
                raise ValueError(f"{name} is {value}, expected 0 or more")
        if not 0 <= self.loss < 1:
            raise ValueError(f"loss is {self.loss}, expected a chance between 0 and 1")
        if self.queue_ms <= 0:
            raise ValueError(f"queue-ms is {self.queue_ms}, expected more than 0")

    @property
    def bytes_per_s(self) -> float | None:
        return None if self.rate_mbit is None else self.rate_mbit * 1e6 / 8

    @property
    def quantum_bytes(self) -> int:
        """Bytes admitted at once: few against the queue, so that connections interleave as packets would."""
        low, high = _QUANTUM_LIMITS_BYTES
        return high if self.bytes_per_s is None else min(max(int(self.bytes_per_s * _QUANTUM_S), low), high)


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
