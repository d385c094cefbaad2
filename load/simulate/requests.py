"""Requests, each from its arrival to its last token: placement, slot, attempts to have its KV, and the batch."""

from array import array

from load.simulate.announcing import Announcing
from load.simulate.decode import DecodeWorker
from load.simulate.prefill_job import Job, Prompt
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

END_MARGIN_S = 0.1
"""Time of a TTFT objective that is kept for what comes after the prefill: control messages and the first decode step."""


class Requests:
    def __init__(self, state: State, announcing: Announcing) -> None:
        self.state = state
        self.announcing = announcing
        self.open = sum(len(home.site.arrivals) for home in state.homes)
        """Requests that are not over, those that are not due yet included."""

    def begin(self, home: Home) -> None:
        """Starts the requests of one pd site when they are due."""
        self._next(home, 0)

    def _next(self, home: Home, index: int) -> None:
        arrivals, clock = home.site.arrivals, self.state.clock
        if index:
            arrival = arrivals[index - 1]
            record = Record(arrival=arrival, sent_s=clock.now_s)
            home.records.append(record)
            clock.after(self.state.timing.control_s, _Request(self, home, index - 1, arrival, record).place)
        if index < len(arrivals):
            clock.at(max(clock.now_s, arrivals[index].arrival_s), self._next, home, index + 1)

    def over(self) -> None:
        """Ends one request; the last one ends the run."""
        self.open -= 1
        self.state.clock.stopped = not self.open


class _Request:
    """One request. Each step schedules the next one, or ends the request."""

    __slots__ = (
        "_arrival", "_clock", "_deadline_at", "_decoder", "_home", "_id", "_index", "_job", "_link", "_placement",
        "_prompt", "_record", "_refused_by", "_requests", "_site", "_state", "_ticket", "_worker",
    )  # fmt: skip

    def __init__(self, requests: Requests, home: Home, index: int, arrival: Arrival, record: Record) -> None:
        self._requests, self._state, self._clock = requests, requests.state, requests.state.clock
        self._home, self._index, self._arrival, self._record = home, index, arrival, record
        self._id = f"{home.name}-{index}"
        self._deadline_at = self._clock.now_s + self._state.timing.ttft_deadline_s
        self._refused_by: tuple[str, ...] = ()
        tokens = arrival.prompt_tokens - 1
        blocks = arrival.block_ids[: tokens // self._state.block_tokens] if arrival.block_ids else ()
        self._prompt = Prompt(tokens, blocks, self._state.block_tokens)
        self._job: Job | None = None
        self._ticket: int | None = None

    def _fail(self, code: str, message: str = "") -> None:
        self._record.error, self._record.message = code, message
        self._home.failed_after_s[self._index] = self._clock.now_s - self._arrival.arrival_s
        self._requests.over()

    # ---- placement and slot

    def place(self) -> None:
        """Places it, and sends it to its decode worker."""
        placement = self._ask_scheduler()
        if isinstance(placement, Refusal):
            self._fail(placement.code, placement.message)
            return
        self._record.outcome, self._record.prefill_site = placement.outcome.value, placement.prefill_site
        self._placement = placement
        self._clock.after(self._state.timing.control_s, self._admit)

    def _ask_scheduler(self) -> Placement | Refusal:
        home, arrival, state = self._home, self._arrival, self._state
        request = PlaceRequest(
            request_id=self._id,
            model=MODEL,
            prompt_tokens=arrival.prompt_tokens,
            max_tokens=arrival.output_tokens,
            ttft_deadline_s=state.timing.ttft_deadline_s,
            block_hashes=bytes(array("Q", arrival.block_ids)) if arrival.block_ids else b"",
            block_tokens=state.block_tokens,
            refused_by=self._refused_by,
        )
        if self._prompt.blocks and home.name in state.stations:
            cached = (worker.cache.cached(self._prompt.blocks) for worker in state.stations[home.name].workers)
            home.cached_tokens[self._index] = max(cached) * state.block_tokens
        (answer,) = home.core.handle(PlacementRequested(self._clock.now_s, request))
        if home.roles is not None and not self._refused_by:
            uncached_tokens = max(0, arrival.prompt_tokens - 1 - answer.cached_tokens)
            home.roles.handle(RequestSeen(self._clock.now_s, MODEL, uncached_tokens))
        return answer.answer

    def _admit(self) -> None:
        decoder = self._home.decoders[self._placement.decode_worker]
        if decoder.leaving:
            self._refused_by += (decoder.name,)
            self._clock.after(self._state.timing.control_s, self.place)
            return
        self._decoder: DecodeWorker = decoder
        self._site, self._worker = self._placement.prefill_site, self._placement.prefill_worker
        self._ticket = decoder.admit(self._attempt)
        if self._ticket is None:
            self._fail(FailureCode.OVERLOADED, "the decode worker is full")
        elif self._job is None:
            self._clock.at(self._deadline_at, self._leave_line, self._ticket)

    def _leave_line(self, ticket: int) -> None:
        if self._job is None and self._decoder.leave_line(ticket):
            self._fail(FailureCode.DEADLINE)

    # ---- its KV

    def _attempt(self) -> None:
        """Sends its job to the site of this attempt: the placement's, then its fallback, until the deadline."""
        home, state, placement, now_s = self._home, self._state, self._placement, self._clock.now_s
        left_s = max(0.0, self._deadline_at - now_s)
        self._link = link = state.links.get((self._site, home.name))
        prompt = self._prompt
        job = self._job = Job(
            prompt,
            link,
            job_id=self._id,
            tenant=home.site.tenants[self._index] if home.site.tenants else "",
            from_token=self._decoder.cache.served(prompt.blocks, self._site) * state.block_tokens,
            worker=self._worker,
            pull=placement.pull if self._job is None else None,
            due_at=self._due_at(),
            expires_at=self._deadline_at - END_MARGIN_S,
        )
        job.on_verified = lambda: self._verified(job)
        job.on_refused = lambda message: self._refused(job, message)
        limit_s = left_s
        if self._may_fall_back and state.stations[self._site].queue is None:
            limit_s = placement.fallback_after_s
        self._clock.after(min(left_s, limit_s), self._timed_out, job)
        self._clock.after(state.control_s(link), state.stations[self._site].submit, job)

    def _due_at(self) -> float:
        """Moment by which the last piece must be computed for the first token to come in time."""
        objective_s = self._state.timing.objectives.ttft_objective_s(self._arrival.prompt_tokens)
        return self._arrival.arrival_s + objective_s - END_MARGIN_S - (self._link.rtt_s if self._link is not None else 0.0)

    @property
    def _may_fall_back(self) -> bool:
        return self._placement.fallback_site not in (None, self._site)

    def _report(self, job: Job, code: str, next_site: str | None) -> None:
        ended = AttemptEnded(request_id=self._id, site=self._site, verified=job.verified, code=code, next_site=next_site)
        self._home.core.handle(AttemptOver(self._clock.now_s, ended))

    def _verified(self, job: Job) -> None:
        if job is not self._job:
            return
        self._report(job, "", None)
        self._home.decode_tokens += job.from_token
        if (changed := self._decoder.cache.keep(self._prompt.blocks, self._site)) is not None:
            self._requests.announcing.blocks(self._home, changed)
        self._decoder.join(self._arrival.output_tokens, self._first, self._last)

    def _refused(self, job: Job, message: str) -> None:
        """The site's queue does not take it."""
        self._report(job, FailureCode.NOT_IN_TIME, None)
        self._decoder.release()
        self._fail(FailureCode.NOT_IN_TIME, message)

    def _timed_out(self, job: Job) -> None:
        if job is not self._job or job.verified or self._record.error:
            return
        next_site = self._placement.fallback_site if self._may_fall_back else None
        self._report(job, FailureCode.TIMEOUT, next_site)
        self._state.stations[self._site].withdraw(job)
        # The next attempt, if there is one.
        if next_site is not None and self._clock.now_s < self._deadline_at:
            self._site, self._worker = next_site, None
            self._record.outcome, self._record.prefill_site = Outcome.FALLBACK_TIMEOUT.value, self._site
            self._attempt()
        else:
            self._decoder.release()
            self._fail(FailureCode.DEADLINE)

    # ---- the answer

    def _first(self) -> None:
        self._record.first_s = self._clock.now_s + 2 * self._state.timing.control_s

    def _last(self) -> None:
        record = self._record
        record.last_s = self._clock.now_s + 2 * self._state.timing.control_s
        record.tokens = self._arrival.output_tokens
        self._decoder.output_tokens.observe(record.tokens)
        self._decoder.release()
        self._requests.over()
