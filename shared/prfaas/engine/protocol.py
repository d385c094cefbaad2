"""Protocol between serving and computing. It is synchronous: a worker's engine has its own thread, one call at a time."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from prfaas.contracts.to_decode import Sampling
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerRange
from prfaas.kvcache.pinned_prefix import PinnedPrefix


class EngineDescription(msgspec.Struct, frozen=True, kw_only=True):
    """Model that an engine serves, and its limits."""

    model: str
    fingerprint: str
    """Hash of model, weights, dtype, KV layout, prefill chunking and library versions: equal fingerprints promise
    interchangeable KV, and bit-identical KV between processors of one kind."""
    layout: KVLayout
    max_context_tokens: int
    chunk_tokens: int
    eos_token_ids: frozenset[int]


class EngineError(Exception):
    """Refusal of an engine. The message says what it could not do; the request fails with it."""


class RowsFailedError(EngineError):
    """Failure of some rows of a batch. The step may be done again without them."""

    def __init__(self, rows: Sequence[int], message: str) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


class BadLogitsError(RowsFailedError):
    """Failure of some rows for which the model computed no usable numbers."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(rows, f"the model's output is not finite in rows {list(rows)} of the batch")


class PrefillCancelled(Exception):
    """End of a prefill whose `cancelled()` turned true between two chunks."""


class SampledToken(msgspec.Struct, frozen=True, kw_only=True):
    """Next token of one row, with log-probabilities where they were asked for."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """Pairs of token id and log-probability, most likely first."""


class DecodeRow(msgspec.Struct, kw_only=True):
    """One request's part in a decode step: `token_id` is fed at the sequence's end, and the next one is sampled."""

    sequence: Any
    token_id: int
    sampler: Any
    """Result of Engine.sampler, which holds the request's state: random numbers, tokens seen."""
    forbid_eos: bool = False
    """True when the next token may not be an end token, since min_tokens is not reached yet."""
    allowed: Callable[[], bytes] | None = None
    """Returns the tokens that may come next, as a mask of one bit per token (GrammarMatcher.mask); None: all may. It may wait for
    the mask, or raise: then the row fails."""


class Engine(Protocol):
    """Prefill and decode of one model."""

    def describe(self) -> EngineDescription: ...

    def prefill(
        self,
        token_ids: Sequence[int],
        on_piece: Callable[[KVPiece], None],
        cancelled: Callable[[], bool],
        *,
        prefix: PinnedPrefix | None = None,
        from_token: int = 0,
    ) -> None:
        """Prefills all of `token_ids` in chunks of `chunk_tokens` from position 0. What `prefix` has is loaded instead of
        computed, and every whole chunk that it has room for is added to it, as `kept_ranges` says: the KV is the same bits with
        and without it.

        Hands out every range of KVLayout.chunk_ranges as soon as its layer is computed, on the calling thread, those of
        cached blocks first. `on_piece` may block: that is the back-pressure of the link. A piece's buffers stay valid and
        unchanged for as long as they are referred to. No logits are computed.

        Raises PrefillCancelled, EngineError, or what a library raises; the engine can take the next prompt then."""
        ...

    def reserve(self, prefill_tokens: int, total_tokens: int) -> Any:
        """Returns a sequence with room for `total_tokens`, of which the first `prefill_tokens` will be installed.

        Raises EngineError when it can never fit."""
        ...

    def sequence_bytes(self, total_tokens: int) -> int:
        """Returns the bytes that `reserve` takes from memory."""
        ...

    def prefill_bytes(self, prefill_tokens: int) -> int:
        """Returns the memory that a prefill of a number of tokens takes at most, beside the model: KV and activations."""
        ...

    def free_bytes(self) -> int | None:
        """Returns the memory that is free where the engine computes; None: that is the host's."""
        ...

    def install(self, sequence: Any, piece: KVPiece) -> None:
        """Copies verified canonical bytes into a sequence that is in no batch yet. Safe beside a running decode."""
        ...

    def read(self, sequence: Any, piece: LayerRange) -> KVPiece:
        """Returns a copy of what was installed of a full layer. Safe beside a running decode."""
        ...

    def sampler(self, sampling: Sampling, prompt: Sequence[int] = ()) -> Any:
        """Returns settings and state of one request, with its whole prompt. Decoding never depends on the rest of the batch."""
        ...

    def decode(self, rows: Sequence[DecodeRow]) -> list[SampledToken]:
        """Computes one step of a ragged batch: appends each row's token to its sequence, and samples each row's next one.

        A row's `allowed` is asked for when its logits are there, and may be asked again. Raises EngineError, RowsFailedError,
        or what a library raises. Whatever it raises, no sequence has grown and no random
        state has moved then, so that the step may be done again with other rows."""
        ...
