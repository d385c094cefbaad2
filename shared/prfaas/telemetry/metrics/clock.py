"""Metric of a process that compares its host's clock with its server's."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge


def watch_clock(registry: CollectorRegistry, skew_s: Callable[[], float]) -> None:
    """Shows how far this host's clock is from that of its site's server."""
    gauge = Gauge("prfaas_clock_skew_seconds", "Lead of this host's clock over its NATS server's.", registry=registry)
    gauge.set_function(skew_s)
