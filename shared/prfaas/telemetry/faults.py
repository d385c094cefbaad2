"""Messages that could not be handled, counted for the whole process: what hears messages has no registry of its own."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class MessageFaults(Collector):
    """Counts by kind of message; kinds are words of the code, so the series are few whatever arrives."""

    def __init__(self) -> None:
        self.undecodable: Counter[str] = Counter()
        """Messages that did not decode, or that no sender may send. They were dropped."""
        self.failed: Counter[str] = Counter()
        """Messages whose handler raised. Only their own handling ended."""
        self.foreign: Counter[str] = Counter()
        """Messages that decode and say what their sender has no right to say. They were ignored."""
        self.late: Counter[str] = Counter()
        """Messages about what is over, or never was. They were ignored."""

    def collect(self) -> Iterator[Metric]:
        for name, text, counts in (
            ("prfaas_bus_undecodable", "Messages dropped because they do not decode, by kind.", self.undecodable),
            ("prfaas_bus_foreign", "Messages ignored because their sender may not say them, by kind.", self.foreign),
            ("prfaas_bus_late", "Messages ignored because what they are about is not under way, by kind.", self.late),
            ("prfaas_bus_handler_failures", "Messages whose handling ended by an exception, by kind.", self.failed),
        ):
            family = CounterMetricFamily(name, text, labels=["kind"])
            for kind, count in counts.items():
                family.add_metric([kind], count)
            yield family


FAULTS = MessageFaults()
"""Faults of this process; the runner shows them on its metrics page."""
