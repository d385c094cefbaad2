"""One workload, from a trace file or synthetic, as every process of a run reads it: the same requests each time."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from prfaas.replay.arrival import Arrival, arrivals_of
from prfaas.replay.shaping import Shape, ShapeError, shaped
from prfaas.replay.synthetic import Synthetic
from prfaas.traces import FORMATS, BadRows, TraceRequest, read_trace, recognise_format


class Workload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    path: str = ""
    """Trace file; empty for synthetic traffic."""
    format: str = ""
    skip_bad: int = 0
    """Rows of the file that may be left out because they cannot be read."""
    synthetic: Synthetic | None = None
    shape: Shape = Shape()
    users: int = 0
    """Sessions that run at any time; 0 where every request or session begins when the trace says."""
    fixed_schedule: bool = False
    """True when the turns of a session leave at their own stamps instead of waiting for the answer before them."""

    @property
    def one_clock(self) -> bool:
        return self.synthetic is not None or FORMATS[self.format].one_clock

    def arrivals(self, bad: BadRows | None = None) -> Iterator[Arrival]:
        """Yields the requests in order of arrival; sessions without a common clock come one after the other.

        `bad` gets what is left out. Raises TraceError, ShapeError, also while it yields."""
        bad = bad or BadRows(self.skip_bad)
        requests = read_trace(Path(self.path), self.format, bad) if self.synthetic is None else self._made()
        shape = self.shape
        if self.users:
            # A run by users ends by the clock of the run, whatever the stamps say.
            shape = msgspec.structs.replace(shape, duration_s=None)
        return arrivals_of(shaped(requests, shape))

    def _made(self) -> Iterator[TraceRequest]:
        assert self.synthetic is not None
        return self.synthetic.requests()


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a workload before it is sent."""

    requests: int
    sessions: int
    span_s: float
    """Latest arrival; of sessions without a common clock, the longest one."""
    input_tokens: int
    output_tokens: int
    longest_tokens: int
    """Longest prompt with its answer."""
    texts: int
    """Requests whose prompt the trace has as text."""
    left_out_lines: tuple[int, ...] = ()
    """Lines of the file that cannot be read and are left out."""


def surveyed(workload: Workload) -> tuple[Workload, Survey]:
    """Reads the whole workload once, so that a damaged row is met before anything is sent.

    Returns the workload with its format. Raises TraceError, ShapeError."""
    if workload.synthetic is None and not workload.format:
        format = recognise_format(Path(workload.path), 1 + workload.skip_bad)
        workload = msgspec.structs.replace(workload, format=format)
    found = _survey(workload)
    if not found.requests:
        raise ShapeError("nothing is left to send: the workload has no request in this shape.")
    if not workload.one_clock and not workload.users:
        raise ShapeError("the sessions of this trace have no common clock: say with --sessions how many run at a time.")
    return workload, found


def at_rate(workload: Workload, rate_req_s: float) -> Workload:
    """Returns the workload at a speed that makes its mean rate `rate_req_s`. Raises TraceError, ShapeError."""
    if not workload.one_clock or workload.users:
        raise ShapeError("a rate needs arrivals on one clock: without --sessions, and of another format.")
    unhurried = msgspec.structs.replace(workload.shape, speed=1.0, duration_s=None, max_requests=None)
    found = _survey(msgspec.structs.replace(workload, shape=unhurried))
    if found.span_s <= 0:
        raise ShapeError("a rate cannot be set: all requests of the trace arrive at once.")
    speed = rate_req_s * found.span_s / found.requests
    return msgspec.structs.replace(workload, shape=msgspec.structs.replace(workload.shape, speed=speed))


def _survey(workload: Workload) -> Survey:
    requests = input_tokens = output_tokens = longest_tokens = texts = 0
    span_s = 0.0
    sessions: set[str] = set()
    bad = BadRows(workload.skip_bad)
    for arrival in workload.arrivals(bad):
        requests += 1
        input_tokens += arrival.prompt_tokens
        output_tokens += arrival.output_tokens
        longest_tokens = max(longest_tokens, arrival.prompt_tokens + arrival.output_tokens)
        texts += bool(arrival.text)
        span_s = max(span_s, arrival.arrival_s)
        if arrival.session:
            sessions.add(arrival.session)
    return Survey(
        requests=requests,
        sessions=len(sessions),
        span_s=span_s,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        longest_tokens=longest_tokens,
        texts=texts,
        left_out_lines=tuple(bad.lines),
    )
