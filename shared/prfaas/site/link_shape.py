"""The shape of an emulated link: rate, delay, loss and queue."""

import msgspec

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
