"""Requests, each from its arrival to its last token: placement, slot, attempts to have its KV, and the batch."""

from array import array
from collections.abc import Generator, Sequence
from typing import Any

import simpy

from load.simulate.announcing import Announcing
from load.simulate.decode import DecodeWorker
from load.simulate.prefill import Job, Prompt
from load.simulate.scenario import MODEL
from load.simulate.state import Home, State
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import AttemptEnded, PlaceRequest
from prfaas.replay.arrival import Arrival
from prfaas.replay.record import Record
from prfaas_scheduler.events import AttemptOver, PlacementRequested
from prfaas_scheduler.roles.events import RequestSeen


class Requests:
    def __init__(self, state: State, announcing: Announcing) -> None:
        self._state = state
        self._announcing = announcing
        self.open = sum(len(home.site.arrivals) for home in state.homes)
        """Requests that are not over, those that are not due yet included."""
        self.all_over = state.env.event()

    def arrivals(self, home: Home) -> Generator[simpy.Event, Any, None]:
        """Starts the requests of one pd site when they are due."""
        for index, arrival in enumerate(home.site.arrivals):
            yield self._state.env.timeout(max(0.0, arrival.arrival_s - self._state.env.now))
            record = Record(arrival=arrival, sent_s=self._state.env.now)
            home.records.append(record)
            self._state.env.process(self._request(home, index, arrival, record))

    def _request(self, home: Home, index: int, arrival: Arrival, record: Record) -> Generator[simpy.Event, Any, None]:
        yield from self._serve(home, index, arrival, record)
        self.open -= 1
        if not self.open:
            self.all_over.succeed()

    def _serve(self, home: Home, index: int, arrival: Arrival, record: Record) -> Generator[simpy.Event, Any, None]:
        # Placed, and handed to a decode worker that is not leaving.
        deadline_at = self._state.env.now + self._state.timing.ttft_deadline_s
        yield self._state.env.timeout(self._state.timing.control_s)
        refused_by: list[str] = []
        while True:
            placement = self._place(home, index, arrival, refused_by)
            if isinstance(placement, Refusal):
                record.error, record.message = placement.code, placement.message
                return
            record.outcome, record.prefill_site = placement.outcome.value, placement.prefill_site
            yield self._state.env.timeout(self._state.timing.control_s)
            decoder = home.decoders[placement.decode_worker]
            if not decoder.leaving:
                break
            refused_by.append(decoder.name)
            yield self._state.env.timeout(self._state.timing.control_s)
        # A slot.
        slot = decoder.admit()
        if slot is None:
            record.error = FailureCode.OVERLOADED
            return
        yield slot | self._state.env.timeout(max(0.0, deadline_at - self._state.env.now))
        if not slot.triggered:
            decoder.leave_line(slot)
            record.error = FailureCode.DEADLINE
            return
        # Its KV.
        verified = yield from self._prefill(home, self._request_id(home, index), arrival, record, placement, decoder, deadline_at)
        if not verified:
            record.error = FailureCode.DEADLINE
            decoder.release()
            return
        # The answer.
        first, last = decoder.join(arrival.output_tokens)
        yield first
        record.first_s = self._state.env.now + 2 * self._state.timing.control_s
        yield last
        record.last_s = self._state.env.now + 2 * self._state.timing.control_s
        record.tokens = arrival.output_tokens
        decoder.output_tokens.observe(record.tokens)
        decoder.release()

    def _request_id(self, home: Home, index: int) -> str:
        return f"{home.name}-{index}"

    def _place(self, home: Home, index: int, arrival: Arrival, refused_by: Sequence[str]) -> Placement | Refusal:
        request = PlaceRequest(
            request_id=self._request_id(home, index),
            model=MODEL,
            prompt_tokens=arrival.prompt_tokens,
            max_tokens=arrival.output_tokens,
            ttft_deadline_s=self._state.timing.ttft_deadline_s,
            block_hashes=bytes(array("Q", arrival.block_ids)),
            block_tokens=self._state.block_tokens,
            refused_by=tuple(refused_by),
        )
        if home.name in self._state.stations:
            usable = arrival.block_ids[: (arrival.prompt_tokens - 1) // self._state.block_tokens]
            cached = (worker.cache.cached(usable) for worker in self._state.stations[home.name].workers)
            home.cached_tokens[index] = max(cached) * self._state.block_tokens
        (answer,) = home.core.handle(PlacementRequested(self._state.env.now, request))
        if home.roles is not None and not refused_by:
            home.roles.handle(RequestSeen(self._state.env.now, MODEL, max(0, arrival.prompt_tokens - 1 - answer.cached_tokens)))
        return answer.answer

    def _prefill(
        self,
        home: Home,
        request_id: str,
        arrival: Arrival,
        record: Record,
        placement: Placement,
        decoder: DecodeWorker,
        deadline_at: float,
    ) -> Generator[simpy.Event, Any, bool]:
        """Attempts as a decode worker makes them: a deferred one if the placement asks for it, one at the placement's site,
        then one at its fallback, until the deadline. Returns True once the KV is verified."""
        site, worker, deferred = placement.prefill_site, placement.prefill_worker, placement.deferred_s > 0
        tokens = arrival.prompt_tokens - 1
        prompt = Prompt(tokens, arrival.block_ids[: tokens // self._state.block_tokens], self._state.block_tokens)
        while True:
            left_s = max(0.0, deadline_at - self._state.env.now)
            may_fall_back = placement.fallback_site not in (None, site)
            # Send the job to the site of this attempt.
            link = self._state.links.get((site, home.name))
            from_token = decoder.cache.cached(prompt.blocks) * self._state.block_tokens
            job = Job(self._state.env, prompt, link, from_token=from_token, worker=worker, deferred=deferred)
            limit_s, next_site = left_s, None
            if deferred:
                limit_s, next_site = placement.deferred_s, site
            elif may_fall_back:
                limit_s, next_site = placement.fallback_after_s, placement.fallback_site
            timeout = self._state.env.timeout(min(left_s, limit_s))
            yield self._state.env.timeout(self._state.control_s(link))
            self._state.stations[site].submit(job)
            yield job.verified | timeout
            # Report its end to the scheduler.
            ended = AttemptEnded(
                request_id=request_id,
                site=site,
                verified=job.verified.triggered,
                code="" if job.verified.triggered else FailureCode.TIMEOUT,
                next_site=None if job.verified.triggered else next_site,
            )
            home.core.handle(AttemptOver(self._state.env.now, ended))
            if job.verified.triggered:
                home.decode_tokens += from_token
                if (changed := decoder.cache.use(prompt.blocks)) is not None:
                    self._announcing.blocks(home, changed)
                return True
            # Not verified: the next attempt, if there is one.
            job.cancel()
            if deferred and self._state.env.now < deadline_at:
                deferred = False
                continue
            if not may_fall_back:
                return False
            assert placement.fallback_site is not None
            site, worker = placement.fallback_site, None
            record.outcome, record.prefill_site = Outcome.FALLBACK_TIMEOUT.value, site
