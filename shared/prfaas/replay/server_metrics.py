"""Metrics of a deployment's services during a run, from the pages that Prometheus reads."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from prfaas.replay.results import Series

EVERY_S = 1.0
TIMEOUT_S = 5.0
KV_BYTES = "prfaas_kv_transfer_bytes_total"
"""KV that arrived, by source and destination."""
GOODPUT = "prfaas_link_goodput_bytes_per_second"
LEASED = "prfaas_link_leased_bytes_per_second"
BUDGET = "prfaas_link_budget_bytes_per_second"
THRESHOLD = "prfaas_threshold_tokens"
PLACEMENTS = "prfaas_placements_total"
REFUSALS = "prfaas_placement_refusals_total"
WAITING = "vllm:num_requests_waiting"
RUNNING = "vllm:num_requests_running"
CACHE_USE = "vllm:kv_cache_usage_perc"
PREFIX_QUERIES = "vllm:prefix_cache_queries_total"
PREFIX_HITS = "vllm:prefix_cache_hits_total"
OPEN_REQUESTS = "prfaas_gateway_open_requests"
KEPT_LABELS = ("source", "destination", "site", "outcome", "prefill_site", "code")
SUMMED = {
    KV_BYTES, PLACEMENTS, REFUSALS, WAITING, RUNNING, PREFIX_QUERIES, PREFIX_HITS, OPEN_REQUESTS,
}  # fmt: skip
"""Metrics whose values over several services add up; of the others the largest is taken."""
WANTED = SUMMED | {GOODPUT, LEASED, BUDGET, THRESHOLD, CACHE_USE}

Key = tuple[str, tuple[tuple[str, str], ...]]


def values_of(page: str) -> dict[Key, float]:
    """Reads the wanted samples of one page. Raises ValueError for a page that is none."""
    found: dict[Key, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            # Prometheus before 3.0 asks for a format in which vLLM's colon becomes an underscore.
            name = sample.name.replace("vllm_", "vllm:", 1) if sample.name.startswith("vllm_") else sample.name
            if name in WANTED:
                labels = tuple((label, sample.labels[label]) for label in KEPT_LABELS if label in sample.labels)
                _add(found, (name, labels), sample.value)
    return found


def merged(pages: Iterable[Mapping[Key, float]]) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for page in pages:
        for key, value in page.items():
            _add(found, key, value)
    return found


def _add(found: dict[Key, float], key: Key, value: float) -> None:
    if key not in found:
        found[key] = value
    else:
        found[key] = found[key] + value if key[0] in SUMMED else max(found[key], value)


class ServerMetrics:
    """Reads the pages of all services every second while it runs."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = [url if url.rstrip("/").endswith("/metrics") else url.rstrip("/") + "/metrics" for url in urls]
        self._series: dict[Key, Series] = {}
        self.failures: dict[str, int] = {}
        """Reads that failed, by URL."""

    @property
    def series(self) -> list[Series]:
        return list(self._series.values())

    async def run(self, start_at: float) -> None:
        """Never returns by itself."""
        if not self._urls:
            return
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as http:
            due_at = start_at
            while True:
                await asyncio.sleep(due_at - time.monotonic())
                await self.read(http, time.monotonic() - start_at)
                due_at = max(due_at + EVERY_S, time.monotonic())

    async def read(self, http: aiohttp.ClientSession, now_s: float) -> None:
        """Reads every page once. A page that cannot be read is left out and counted."""
        pages = await asyncio.gather(*(self._page(http, url) for url in self._urls))
        # A counter over several services is known only when all of them answered: else it would seem to fall.
        if any(page is None for page in pages):
            return
        for key, value in merged(page for page in pages if page is not None).items():
            name, labels = key
            series = self._series.setdefault(key, Series(name=name, labels=dict(labels)))
            series.at_s.append(round(now_s, 3))
            series.values.append(value)

    async def _page(self, http: aiohttp.ClientSession, url: str) -> dict[Key, float] | None:
        try:
            async with http.get(url) as response:
                response.raise_for_status()
                return values_of(await response.text())
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            self.failures[url] = self.failures.get(url, 0) + 1
            return None

    def link_use(self) -> dict[str, float]:
        """Returns each link's bytes per second between the last two reads."""
        found: dict[str, float] = {}
        for series in self._series.values():
            crosses = series.labels.get("source") != series.labels.get("destination")
            if series.name == KV_BYTES and crosses and len(series.values) > 1:
                link = f"{series.labels.get('source')} to {series.labels.get('destination')}"
                rate = (series.values[-1] - series.values[-2]) / max(1e-9, series.at_s[-1] - series.at_s[-2])
                found[link] = found.get(link, 0.0) + rate
        return found
