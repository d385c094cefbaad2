"""A worker's part in pulls: the buckets that prefixes come through, the worker as holder, and as one that pulls."""

from collections.abc import Callable
from functools import partial

from prfaas.bus.bulk.wire import LaneError
from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError
from prfaas.contracts import subjects
from prfaas.contracts.to_prefill import SendPrefix
from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.process.runner import ServiceContext
from prfaas.sealing.pull_seal import PullSeals
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.pulls import PullMetrics
from prfaas.transfer.bucket_keeper import KVBucketKeeper
from prfaas.worker.site_connections import SiteConnections
from prfaas_prefill_worker.config import PrefillWorkerConfig
from prfaas_prefill_worker.events import Run
from prfaas_prefill_worker.links import Links
from prfaas_prefill_worker.prefiller import Prefiller
from prfaas_prefill_worker.pulls.holder import PrefixHolder
from prfaas_prefill_worker.pulls.puller import Pulled, Puller

BUCKET_TTL_S = 60.0
"""Age at which the server drops what no one has deleted. No pull takes as long."""

log = get_logger(__name__)


class Pulls:
    """Everything of it may fail: then jobs are computed."""

    def __init__(
        self,
        config: PrefillWorkerConfig,
        context: ServiceContext,
        connections: SiteConnections,
        prefiller: Prefiller,
        cache: PrefixCache,
        links: Links,
    ) -> None:
        """Raises KeyFileError."""
        self._config = config
        self._context = context
        self._connections = connections
        description, calls, tasks = prefiller.description, prefiller.calls, context.tasks
        metrics = PullMetrics(context.registry, description.model)
        seals = PullSeals(config.site, config.sealing)
        bus, lane = connections
        sites = config.pulled_sites
        self._holder = PrefixHolder(config.site, description, cache, calls, lane, links, seals, tasks, metrics)
        self._puller = Puller(
            config.identity, description, cache, calls, bus, lane, seals, tasks, metrics,
            sites=sites, bucket_bytes=config.pull_bucket_bytes,
        )  # fmt: skip
        self._keepers = {
            site: KVBucketKeeper(
                lane, subjects.pull_bucket(config.site, site), max_bytes=config.pull_bucket_bytes, ttl_s=BUCKET_TTL_S
            )
            for site in sites
        }

    @property
    def bytes_per_s(self) -> float:
        """Rate of the last pulls within the site; 0 before the first."""
        return self._puller.bytes_per_s

    async def start(self) -> None:
        """Raises BusError."""
        for site, keeper in self._keepers.items():
            try:
                await keeper.start()
            except (LaneError, TimeoutError) as error:  # such as a server without the room: `run` tries again
                log.warning("no_bucket_for_pulls", from_site=site, reason=str(error) or "no answer in time")
                keeper.problem = "it was not made yet"
            self._context.tasks.spawn(f"keep bucket of pulls from {site}", keeper.run())
        for asking_site in self._config.asking_sites:
            await self._serve(self._connections.bus, asking_site)

    async def _serve(self, bus: ControlBus, asking_site: str) -> None:
        subject = subjects.send_prefix(self._config.site, self._config.name, asking_site)
        try:
            await bus.serve(subject, SendPrefix, partial(self._holder.answer, asking_site))
        except BusError as error:
            log.warning("no_prefix_is_sent", to_site=asking_site, reason=str(error))

    async def pull(self, run: Run, cancelled: Callable[[], bool]) -> Pulled:
        """Fetches what the job's prefix may be pulled of. Never raises for a pull that fails."""
        source = run.job.pull
        keeper = None if source is None else self._keepers.get(source.site)
        if keeper is not None and keeper.problem is not None:
            return Pulled()
        return await self._puller.pull(run, cancelled)

    def close(self) -> None:
        self._holder.close()
