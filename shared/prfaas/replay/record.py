"""One request of a run and its end, as the client sees it. Times are seconds after the run's start."""

import msgspec

from prfaas.replay.arrival import Arrival


class Record(msgspec.Struct, kw_only=True):
    arrival: Arrival
    """`arrival_s` is the moment at which the request was due."""
    index: int = 0
    sent_s: float | None = None
    """Moment at which the client opened, or took, a connection for it: what comes after is the network's and the server's."""
    first_s: float | None = None
    last_s: float | None = None
    """The answer's last token."""
    gaps_s: list[float] = []
    """Times between two pieces of text."""
    prompt_tokens: int = 0
    """Prompt's tokens, as the server counted them; 0 where it does not say."""
    tokens: int = 0
    """Answer's tokens, as the server counted them; else its pieces of text."""
    cached_tokens: int = 0
    """Prompt tokens that the server did not compute, as it says."""
    text: str = ""
    outcome: str = ""
    prefill_site: str = ""
    trace_id: str = ""
    request_id: str = ""
    status: int = 0
    error: str = ""
    """Empty: answered in full. Else the server's error code, or `timeout`, `connection`, `protocol`, `cut_off`, `client_full`,
    `interrupted`."""
    message: str = ""

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_s is None else self.first_s - self.arrival.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first."""
        if self.first_s is None or self.last_s is None or self.tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.tokens - 1)

    @property
    def lag_s(self) -> float:
        """Delay of the client itself."""
        return 0.0 if self.sent_s is None else self.sent_s - self.arrival.arrival_s
