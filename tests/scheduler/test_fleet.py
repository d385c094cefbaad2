"""The core under events in any order: its indexes always say what a walk over all workers would."""

from array import array

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prfaas.contracts.terms import Role
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import AttemptEnded, BlocksChanged, Heartbeat, LinkEstimate, PlaceRequest
from prfaas_scheduler.events import (
    AttemptOver,
    CacheChanged,
    HeartbeatReceived,
    LinkLost,
    LinkMeasured,
    PlacementRequested,
    WorkerGone,
)
from prfaas_scheduler.policies.base import Policy
from prfaas_scheduler.policies.baselines import Balanced, RemoteAll
from prfaas_scheduler.policies.priced import Priced
from prfaas_scheduler.policies.threshold import Threshold
from prfaas_scheduler.pools import HEARTBEAT_TIMEOUT_S
from prfaas_scheduler.service_core import SchedulerCore
from tests.budget import examples

SITES = st.sampled_from(["home", "far"])
NAMES = st.sampled_from(["w0", "w1", "w2"])
# Mostly alike, so that pools hold several workers.
MODELS = st.sampled_from(["m", "m", "m", "n"])
FINGERPRINTS = st.sampled_from(["f", "f", "f", "g"])
INCARNATIONS = st.sampled_from(["i", "i", "i", "j"])
DRAINING = st.sampled_from([False, False, False, True])
REQUESTS = st.integers(0, 40).map(str)
POINTS = st.sampled_from([(), ((100.0, 0.1), (8000.0, 8.0)), ((50.0, 0.3),)])
POLICIES: dict[str, Policy] = {
    "remote_all": RemoteAll(),
    "threshold": Threshold(500),
    "balanced": Balanced(),
    "priced": Priced(10.0),
}


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core, self.now_s = SchedulerCore("home", RemoteAll()), 0.0
        self.count = 0
        self.held: dict[str, set[int]] = {}
        """Blocks that each known worker has announced, as far as it did not take them back."""

    @rule(name=st.sampled_from(sorted(POLICIES)))
    def change_policy(self, name: str) -> None:
        self.core.policy = POLICIES[name]

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, HEARTBEAT_TIMEOUT_S, 20.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(site=SITES, name=NAMES, model=MODELS, fingerprint=FINGERPRINTS, points=POINTS, draining=DRAINING)
    def prefill_worker_beats(
        self, site: str, name: str, model: str, fingerprint: str, points: tuple[tuple[float, float], ...], draining: bool
    ) -> None:
        self.beat(
            Heartbeat(
                site=site,
                worker=name,
                role=Role.PREFILL,
                model=model,
                fingerprint=fingerprint,
                max_context_tokens=9000,
                prefill_points=points,
                kv_points=((1.0, 1e6), (9000.0, 9e8)),
                draining=draining,
            )
        )

    @rule(
        name=NAMES, incarnation=INCARNATIONS, model=MODELS, fingerprint=FINGERPRINTS, running=st.integers(0, 3), draining=DRAINING
    )
    def decode_worker_beats(
        self, name: str, incarnation: str, model: str, fingerprint: str, running: int, draining: bool
    ) -> None:
        self.beat(
            Heartbeat(
                site="home",
                worker=name,
                incarnation=incarnation,
                role=Role.DECODE,
                model=model,
                fingerprint=fingerprint,
                max_context_tokens=9000,
                running=running,
                slots=2,
                waiting_limit=2,
                draining=draining,
            )
        )

    def beat(self, beat: Heartbeat) -> None:
        self.core.handle(HeartbeatReceived(self.now_s, beat))

    @rule(site=SITES, role=st.sampled_from(list(Role)), name=NAMES)
    def worker_leaves(self, site: str, role: Role, name: str) -> None:
        self.core.handle(WorkerGone(self.now_s, f"{site}.{role}.{name}"))
        self.held.pop(f"{site}.{role}.{name}", None)

    @rule(site=SITES, role=st.sampled_from(list(Role)), name=NAMES, first=st.integers(1, 3), count=st.integers(0, 9))
    def worker_caches(self, site: str, role: Role, name: str, first: int, count: int) -> None:
        self.count += 1
        changed = BlocksChanged(
            site=site,
            worker=name,
            role=role,
            incarnation="i",
            sequence=self.count,
            stored=bytes(array("Q", range(first, first + count))),
            removed=bytes(array("Q", range(1, first))),
        )
        self.core.handle(CacheChanged(self.now_s, changed))
        key = f"{site}.{role}.{name}"
        if key in self.core.fleet.workers:
            self.held[key] = (self.held.get(key, set()) - set(range(1, first))) | set(range(first, first + count))

    def depth(self, beat: Heartbeat, blocks: int) -> int:
        """Number of the first `blocks` blocks that a walk finds at a worker."""
        return max((block for block in self.held.get(beat.key, ()) if block <= blocks), default=0)

    @rule(site=SITES, goodput_bytes_per_s=st.sampled_from([0.0, 1e6, 1e10]))
    def link_is_measured(self, site: str, goodput_bytes_per_s: float) -> None:
        estimate = LinkEstimate(source=site, destination="home", rtt_s=0.02, goodput_bytes_per_s=goodput_bytes_per_s, samples=1)
        self.core.handle(LinkMeasured(self.now_s, estimate))

    @rule(site=SITES)
    def link_is_lost(self, site: str) -> None:
        self.core.handle(LinkLost(self.now_s, f"{site}.home"))

    @rule(request_id=REQUESTS, model=MODELS, prompt_tokens=st.integers(1, 9000))
    def request_comes(self, request_id: str, model: str, prompt_tokens: int) -> None:
        request = PlaceRequest(
            request_id=request_id,
            model=model,
            prompt_tokens=prompt_tokens,
            max_tokens=8,
            ttft_deadline_s=30.0,
            block_hashes=bytes(array("Q", range(1, 1 + prompt_tokens // 1000))),
            block_tokens=1000,
        )
        live = [
            worker.beat
            for worker in self.core.fleet.workers.values()
            if worker.beat.model == model and not worker.beat.draining and not worker.is_silent(self.now_s)
        ]
        (answered,) = self.core.handle(PlacementRequested(self.now_s, request))
        answer = answered.answer
        decoders = {beat.worker: beat for beat in live if beat.role is Role.DECODE}
        if isinstance(answer, Placement):
            fingerprint = decoders[answer.decode_worker].fingerprint
            able = {beat.site for beat in live if beat.role is Role.PREFILL and beat.fingerprint == fingerprint}
            assert {answer.prefill_site, answer.fallback_site or answer.prefill_site} <= able
            here = [
                beat
                for beat in live
                if (beat.role, beat.site, beat.fingerprint) == (Role.PREFILL, answer.prefill_site, fingerprint)
            ]
            depths = {beat.worker: self.depth(beat, (prompt_tokens - 1) // 1000) for beat in here}
            if answer.prefill_worker is not None:
                assert depths[answer.prefill_worker] == max(depths.values()) > min(depths.values())
                assert answered.cached_tokens == 1000 * max(depths.values())
            else:
                assert answered.cached_tokens == 1000 * min(depths.values())
        else:
            assert isinstance(answer, Refusal)
            assert (answer.code == "no_decode_worker") is (not decoders)

    @rule(request_id=REQUESTS, site=SITES, verified=st.booleans(), next_site=st.none() | SITES)
    def attempt_ends(self, request_id: str, site: str, verified: bool, next_site: str | None) -> None:
        code = "" if verified else "timeout"
        ended = AttemptEnded(request_id=request_id, site=site, verified=verified, code=code, next_site=next_site)
        self.core.handle(AttemptOver(self.now_s, ended))

    @invariant()
    def indexes_are_right(self) -> None:
        self.core.validate()

    def teardown(self) -> None:
        """Silence alone empties everything."""
        self.core.handle(WorkerGone(self.now_s + 100.0, "nobody"))
        self.core.validate()
        assert not self.core.fleet.placed and not +self.core.fleet.alive


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=examples(100), stateful_step_count=60, deadline=None)


def test_an_estimate_of_a_link_within_the_site_means_nothing() -> None:
    state = AnyOrder()
    state.link_is_measured("home", 0.0)
    state.decode_worker_beats(name="w0", incarnation="i", model="m", fingerprint="f", running=0, draining=False)
    state.prefill_worker_beats(name="w0", site="home", fingerprint="f", model="m", points=((50.0, 0.3),), draining=False)
    state.change_policy("priced")
    state.request_comes(request_id="0", model="m", prompt_tokens=1502)
    state.indexes_are_right()
