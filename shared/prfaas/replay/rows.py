"""One request of a run as it stands in the result, and the limits that it is held against."""

from collections.abc import Iterable

import msgspec

from prfaas.replay.record import Record


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """Limits within which a request counts as goodput. A failed request never does."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    share: float = 0.9
    """Share of the requests that must keep the limits for a rate to be sustained."""


class RequestRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    index: int
    due_s: float
    sent_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    max_gap_s: float = 0.0
    """Longest pause between two pieces of text."""
    input_tokens: int = 0
    """Prompt's tokens: the server's count, else the workload's."""
    output_tokens: int = 0
    requested_output_tokens: int = 0
    cached_tokens: int = 0
    session: str = ""
    outcome: str = ""
    prefill_site: str = ""
    trace_id: str = ""
    request_id: str = ""
    status: int = 0
    error: str = ""
    message: str = ""

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_s is None else self.first_s - self.due_s

    @property
    def tpot_s(self) -> float | None:
        if self.first_s is None or self.last_s is None or self.output_tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.output_tokens - 1)

    @property
    def e2e_s(self) -> float | None:
        return None if self.last_s is None else self.last_s - self.due_s

    @property
    def uncached_tokens(self) -> int:
        return max(0, self.input_tokens - self.cached_tokens)

    def kept(self, slo: Slo) -> bool:
        if self.error or self.ttft_s is None:
            return False
        pairs = ((self.ttft_s, slo.ttft_s), (self.tpot_s, slo.tpot_s), (self.e2e_s, slo.e2e_s))
        return all(value is None or limit is None or value <= limit for value, limit in pairs)


def row_of(record: Record) -> RequestRow:
    return RequestRow(
        index=record.index,
        due_s=round(record.arrival.arrival_s, 6),
        sent_s=_rounded(record.sent_s),
        first_s=_rounded(record.first_s),
        last_s=_rounded(record.last_s),
        max_gap_s=round(max(record.gaps_s, default=0.0), 6),
        input_tokens=record.prompt_tokens or record.arrival.prompt_tokens,
        output_tokens=record.tokens,
        requested_output_tokens=record.arrival.output_tokens,
        cached_tokens=record.cached_tokens,
        session=record.arrival.session,
        outcome=record.outcome,
        prefill_site=record.prefill_site,
        trace_id=record.trace_id,
        request_id=record.request_id,
        status=record.status,
        error=record.error,
        message=record.message,
    )


def rows_of_lines(lines: Iterable[bytes]) -> list[RequestRow]:
    """Reads rows that were written one a line, in order of the time at which they were due. A torn last line is left out."""
    decoder = msgspec.json.Decoder(RequestRow)
    rows = [decoder.decode(line) for line in lines if line.endswith(b"\n")]
    return sorted(rows, key=lambda row: (row.due_s, row.index))


def _rounded(value_s: float | None) -> float | None:
    return None if value_s is None else round(value_s, 6)
