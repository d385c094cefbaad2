"""State of the running system as the console shows it. Pure: what the gateway hears in, sections of items out.

What comes in costs a few operations, whether somebody watches or not; sections are made only when they are asked for.
"""

from collections import Counter
from typing import Final

from prfaas import __version__
from prfaas.console.changes import Encoded, encoded
from prfaas.console.schema import (
    SOLE,
    GatewayItem,
    LinkItem,
    RequestDetail,
    RequestItem,
    SchedulerItem,
    SiteItem,
    WorkerItem,
)
from prfaas.contracts.scheduler_state import SchedulerState
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat, LinkEstimate
from prfaas_gateway.console.recent_requests import KEPT, RecentRequests
from prfaas_gateway.console.seen_request import SHOWN_CHARACTERS, SeenRequest
from prfaas_gateway.console.waterfall import stages_of

MAX_WORKERS: Final = 512
"""Workers that are kept and told; a site may announce thousands."""
MAX_LINKS: Final = 64
SILENT_AFTER_S: Final = 4.0
"""Silence of the scheduler that is told."""
_LABEL_CHARACTERS: Final = 120


class ConsoleCore:
    """State of one gateway's console. Moments are of one clock, in s; Unix time is given beside it where it is told."""

    def __init__(self, site: str, gateway: str, models: tuple[str, ...], *, keys: bool, kept: int = KEPT) -> None:
        """`keys`: whether the API wants a key. `kept`: ended requests to keep of each tenant."""
        self._site = site
        self._gateway = gateway
        self._models = models
        self._keys = keys
        self._workers: dict[str, WorkerItem] = {}
        self._hidden: set[str] = set()
        """Live workers without a place here."""
        self._scheduler: SchedulerState | None = None
        self._scheduler_heard_at = 0.0
        self.requests = RecentRequests(kept)

    def handle_beat(self, key: str, beat: Heartbeat | None) -> None:
        """Takes a heartbeat, or None for a worker that is gone."""
        if beat is None:
            self._workers.pop(key, None)
            self._hidden.discard(key)
            return
        if key not in self._workers and len(self._workers) >= MAX_WORKERS:
            if len(self._hidden) < MAX_WORKERS:
                self._hidden.add(key)
            return
        self._hidden.discard(key)
        self._workers[key] = WorkerItem(
            site=beat.site,
            name=beat.worker,
            role=beat.role.value,
            model=beat.model[:_LABEL_CHARACTERS],
            running=beat.running,
            slots=beat.slots,
            waiting=beat.waiting,
            cache_usage=beat.cache_usage,
            draining=beat.draining,
        )

    def handle_scheduler(self, state: SchedulerState, now_s: float) -> None:
        self._scheduler, self._scheduler_heard_at = state, now_s

    def sections(self, tenant: str | None, now_s: float, unix_s: float) -> Encoded:
        """Returns the state as one tenant may see it; None: with the requests of all."""
        requests = self.requests.of(tenant)
        gateway = GatewayItem(
            version=__version__,
            site=self._site,
            gateway=self._gateway,
            models=self._models,
            whole=tenant is None,
            keys=self._keys,
            running=len(requests.running),
            hidden_workers=len(self._hidden),
        )
        return encoded(
            {
                "gateway": {SOLE: gateway},
                "scheduler": self._scheduler_item(now_s),
                "sites": self._sites(),
                "links": {item.key: _link(item, self._owed_bytes(item.source)) for item in self._estimates()},
                "workers": self._workers,
                "requests": {seen.request_id: request_item(seen) for seen in requests.latest(KEPT)},
                "slots": requests.slots.items(unix_s),
            }
        )

    def detail(self, tenant: str | None, request_id: str, now_s: float) -> RequestDetail | None:
        """Returns the waterfall of a request that the tenant may see; None where there is no such one."""
        seen = self.requests.of(tenant).find(request_id)
        if seen is None:
            return None
        return RequestDetail(
            request=request_item(seen),
            client_request_id=seen.client_request_id,
            reason=seen.reason,
            decode_worker=seen.decode_worker,
            cached_tokens=seen.cached_tokens,
            moves=seen.moves,
            stages=stages_of(seen, self._site, now_s),
            trace_id=seen.trace_id,
        )

    def validate(self) -> None:
        assert len(self._workers) <= MAX_WORKERS and len(self._hidden) <= MAX_WORKERS
        assert not self._hidden & self._workers.keys()
        self.requests.validate()

    def _scheduler_item(self, now_s: float) -> dict[str, SchedulerItem]:
        state = self._scheduler
        if state is None:
            return {}
        silent_s = now_s - self._scheduler_heard_at
        item = SchedulerItem(
            name=state.name,
            term=state.term,
            policy=state.policy[:_LABEL_CHARACTERS],
            threshold_tokens=state.threshold_tokens,
            ttft_objective_s=state.ttft_objective_s,
            silent_s=round(silent_s) if silent_s > SILENT_AFTER_S else 0.0,
        )
        return {SOLE: item}

    def _sites(self) -> dict[str, SiteItem]:
        """Returns the sites that have a worker, a link, or a word of the scheduler, and the own one."""
        alive = Counter((worker.site, worker.role) for worker in self._workers.values())
        told = {site.site: site for site in self._scheduler.sites} if self._scheduler is not None else {}
        names = {self._site, *told, *(site for site, _ in alive), *(link.source for link in self._estimates())}
        return {
            name: SiteItem(
                name=name,
                own=name == self._site,
                prefill_workers=alive[name, Role.PREFILL.value],
                decode_workers=alive[name, Role.DECODE.value],
                wait_s=round(told[name].wait_s, 3) if name in told else None,
                placed=told[name].placed if name in told else 0,
                breaker=told[name].breaker[:_LABEL_CHARACTERS] if name in told else "closed",
                distrusted=name in told and told[name].distrusted,
            )
            for name in sorted(names)
        }

    def _estimates(self) -> tuple[LinkEstimate, ...]:
        return self._scheduler.links[:MAX_LINKS] if self._scheduler is not None else ()

    def _owed_bytes(self, source: str) -> float:
        sites = self._scheduler.sites if self._scheduler is not None else ()
        return next((site.owed_bytes for site in sites if site.site == source), 0.0)


def request_item(seen: SeenRequest) -> RequestItem:
    return RequestItem(
        id=seen.request_id,
        model=seen.model[:_LABEL_CHARACTERS],
        arrived_unix_s=round(seen.arrived_unix_s, 3),
        prompt_tokens=seen.prompt_tokens,
        completion_tokens=seen.completion_tokens,
        outcome=seen.outcome,
        prefill_site=seen.prefill_site or seen.placed_site,
        ttft_s=None if seen.ttft_s is None else round(seen.ttft_s, 4),
        duration_s=None if seen.ended_at is None else round(seen.ended_at - seen.arrived_at, 4),
        status=seen.status,
        error=seen.error[:SHOWN_CHARACTERS],
    )


def _link(estimate: LinkEstimate, owed_bytes: float) -> LinkItem:
    return LinkItem(
        source=estimate.source,
        destination=estimate.destination,
        goodput_bytes_per_s=round(estimate.goodput_bytes_per_s),
        budget_bytes_per_s=estimate.budget_bytes_per_s,
        sent_bytes_per_s=None if estimate.sent_bytes_per_s is None else round(estimate.sent_bytes_per_s),
        owed_bytes=round(owed_bytes),
        rtt_s=round(estimate.rtt_s, 5),
        jitter_s=round(estimate.jitter_s, 5),
        confidence=estimate.confidence,
        age_s=round(estimate.age_s, 1),
        retransmit_share=estimate.retransmit_share,
    )
