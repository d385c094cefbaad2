"""Metrics of the prefix cache by tier: what it holds, gave up and has saved. Read when they are asked for."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.worker.disk_tier.tier import DiskTier


class PrefixMetrics(Collector):
    """Hits are counted by jobs. The figures are the engine thread's; each is read in one step."""

    def __init__(self, registry: CollectorRegistry, model_name: str, cache: PrefixCache, disk: DiskTier | None) -> None:
        self._model_name = model_name
        self._cache = cache
        self._disk = disk
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        tiers: dict[str, PrefixCache | DiskTier] = {"memory": self._cache}
        if self._disk is not None:
            tiers["disk"] = self._disk
        labels = ["model_name", "tier"]
        held = GaugeMetricFamily("prfaas_prefix_held_bytes", "KV of prompts' blocks that is held.", labels=labels)
        capacity = GaugeMetricFamily("prfaas_prefix_capacity_bytes", "Most that may be held.", labels=labels)
        evicted = CounterMetricFamily("prfaas_prefix_evicted_bytes", "KV that was given up for other.", labels=labels)
        for tier, store in tiers.items():
            held.add_metric([self._model_name, tier], store.size_bytes)
            capacity.add_metric([self._model_name, tier], store.capacity_bytes)
            evicted.add_metric([self._model_name, tier], store.evicted_bytes)
        yield from (held, capacity, evicted)
        if self._disk is not None:
            yield from self._of_disk(self._disk)

    def _of_disk(self, disk: DiskTier) -> Iterator[Metric]:
        files = CounterMetricFamily(
            "prfaas_prefix_disk_files",
            "Files of blocks: read, damaged (found so when read), dropped (the queue was full), failed (to be written).",
            labels=["model_name", "result"],
        )
        for result, count in (
            ("read", disk.reads), ("damaged", disk.damaged), ("dropped", disk.dropped), ("failed", disk.failed),
        ):  # fmt: skip
            files.add_metric([self._model_name, result], count)
        written = CounterMetricFamily("prfaas_prefix_disk_written_bytes", "Bytes written to disk.", labels=["model_name"])
        written.add_metric([self._model_name], disk.written_bytes)
        speed = GaugeMetricFamily("prfaas_prefix_disk_read_bytes_per_second", "Observed speed of reading.", labels=["model_name"])
        speed.add_metric([self._model_name], disk.speed.bytes_per_s)
        yield from (files, written, speed)
