"""Report that `make bench-kv` writes: rows, and ratios of rows of one table."""

import msgspec

from load.machine import Conditions


class Row(msgspec.Struct, frozen=True, kw_only=True):
    table: str
    what: str
    mib_per_s: float
    """Median. Of residual tables: see `ms`."""
    best_mib_per_s: float
    ms: float
    """Median time of a run; in residual tables from the last piece put to everything verified."""
    cpu_s: tuple[float, float, float]
    """Sender, receiver, servers."""
    peak_mib: tuple[float, float]
    """Memory beyond the prepared payload: sender, receiver."""
    runs: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One transfer, memory storage, checksums per frame and over the whole."""

    loopback_vs_object_store: float
    loopback_vs_asyncio_streams: float
    loopback_vs_raw_tcp: float
    tls_vs_plain_leaf: float
    """Speed from site to site without an emulated link, with TLS on the leaf connection / without."""
    tls_vs_plain_leaf_server_cpu: float
    """CPU time of both servers in the same runs, likewise."""
    sealed_vs_plain_leaf: float
    sealed_and_tls_vs_plain_leaf: float
    sealed_vs_plain_loopback: float
    sealed_vs_plain_link: float
    """The lowest over all links, as the next two."""
    tls_vs_plain_link: float
    sealed_and_tls_vs_plain_link: float
    sealing_cpu_vs_aes: float
    """CPU time that sealing added at both ends on loopback, less the checksums that it saved / AES-256-GCM over the same bytes
    twice, in one buffer."""
    link_vs_raw_tcp: float
    """The lowest over all links."""
    residual_minus_tcp_ms: float
    """The largest."""
    control_p99_ratio: float
    """p99 round trip of control messages beside saturated bulk / idle."""
    control_p99_share_of_limit: float
    """p99 beside bulk, as a share of the limit 2 x idle p99 + 20 ms; is to be at most 1."""


class Distance(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds for the same bytes on loopback, through plain TCP and through the lane."""

    tcp_cpu_s: float
    lane_sender_cpu_s: float
    lane_receiver_cpu_s: float
    lane_server_cpu_s: float
    checksum_cpu_s: float
    """xxh3-128 over all bytes at both ends; part of the sender's and the receiver's."""
    lane_at_most_mib_per_s: float
    """Speed of a lane whose cores do nothing else and never wait for one another."""
    any_broker_at_most_vs_tcp: float
    """Share of plain TCP's speed that a broker which costs nothing could reach: every byte crosses TCP twice, and is summed
    at both ends. On few cores this is CPU time, whatever the broker does."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    conditions: Conditions
    rows: list[Row]
    control: dict[str, float]
    distance: Distance
    summary: Summary
