"""Jobs of the prefill stations: attempts to have one prompt's KV where it will be decoded, and the pieces in which it leaves."""

from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from load.simulate.link import Link
from prfaas.capacity.profiles import Profile
from prfaas.contracts.kv import PrefixSource
from prfaas.engine.emulated_model import kv_line

PIECES = 8
"""A transfer leaves in this many parts, spread over its prefill."""


class Prompt(NamedTuple):
    tokens: int
    """Tokens to prefill."""
    blocks: Sequence[int] = ()
    """Names of the whole blocks of these tokens."""
    block_tokens: int = 0


def ignore() -> None:
    pass


def _ignore_refusal(message: str) -> None:
    pass


class Job:
    """One attempt to prefill one prompt and to have its KV where it will be decoded."""

    __slots__ = (
        "cached_tokens", "cancelled", "due_at", "expires_at", "from_token", "job_id", "link", "on_refused",
        "on_stopped", "on_verified", "prompt", "pull", "tenant", "verified", "worker",
    )  # fmt: skip

    def __init__(
        self,
        prompt: Prompt,
        link: Link | None,
        *,
        job_id: str = "",
        tenant: str = "",
        from_token: int = 0,
        worker: str | None = None,
        pull: PrefixSource | None = None,
        due_at: float = inf,
        expires_at: float = inf,
        on_verified: Callable[[], None] = ignore,
        on_refused: Callable[[str], None] = _ignore_refusal,
    ) -> None:
        """`link`: None within a site. `from_token`: first token that full layers ship. `worker`: the only one that may take it.
        `pull`: worker that has its prefix, for the one that takes it.
        `due_at`, `expires_at`: what a queue with due dates goes by."""
        self.prompt, self.link, self.job_id, self.tenant = prompt, link, job_id, tenant
        self.from_token, self.worker, self.pull = from_token, worker, pull
        self.due_at, self.expires_at = due_at, expires_at
        self.on_verified, self.on_refused = on_verified, on_refused
        self.on_stopped: Callable[[], None] = ignore
        """Called when it is cancelled while it holds a worker."""
        self.cached_tokens = 0
        self.verified = self.cancelled = False

    def arrived(self) -> None:
        """Callback of the last piece's arrival."""
        if not self.cancelled:
            self.verified = True
            self.on_verified()

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self.on_stopped()


def piece_bytes(profile: Profile, tokens: float, from_token: float = 0.0) -> list[float]:
    """S_kv(l) as it leaves: what grows with the tokens, from `from_token` on, with each chunk, the recurrent state after the
    last."""
    total_bytes = profile.kv_bytes(tokens)
    state_bytes = min(total_bytes, max(0.0, _state_bytes(profile)))
    sizes = [(total_bytes - state_bytes) * (1 - from_token / tokens) / PIECES] * PIECES
    sizes[-1] += state_bytes
    return sizes


_STATES: dict[str, float] = {}


def _state_bytes(profile: Profile) -> float:
    found = _STATES.get(profile.name)
    if found is None:
        found = _STATES[profile.name] = kv_line(profile)[0]
    return found
