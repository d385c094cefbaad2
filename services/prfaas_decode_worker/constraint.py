"""One answer that follows a grammar, and the masks of its next tokens, computed beside the engine."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Final

from prfaas.engine.grammar.forms import GrammarError
from prfaas.engine.grammar.matcher import GrammarMatcher

SLOW_MASK_S: Final = 0.005
"""Time above which the next mask is waited for outside of the batch: the other rows' step does not wait for it."""
MASK_TIMEOUT_S: Final = 2.0
"""Longest wait of a step for the mask of a row whose last one was quick. The bounds on a grammar's work are far below it."""


class Constraint:
    """A grammar followed on other threads than the engine's. Steps are told by `begin_step` and `end_step`, in turns.

    What an earlier decode worker has sent is fed to the batch token by token again, and so comes past here too."""

    def __init__(self, matching: Future[GrammarMatcher], masking: Executor, ready: Callable[[], object]) -> None:
        """`matching`: the grammar's compilation. `ready` is called, from any thread, when a mask is there."""
        self._matching = matching
        self._masking = masking
        self._ready = ready
        self._mask: Future[bytes] | None = None
        self._has_begun = False
        self._slow = True
        self._waits_outside = True
        matching.add_done_callback(lambda _: ready())

    def begin_step(self, token_id: int) -> bool:
        """Begins with the mask of the tokens that may follow `token_id`, which the step feeds, unless it is begun.

        Returns whether the row can be in the step: its mask is there, or will be soon. Raises GrammarError."""
        if not self._matching.done():
            return False
        if self._mask is None:
            matcher = self._matching.result()
            # The first step feeds the prompt's last token, which is no part of the answer.
            fed, self._has_begun = self._has_begun, True
            self._waits_outside = self._slow
            self._mask = self._masking.submit(self._compute, matcher, token_id if fed else None)
            if self._waits_outside:
                self._mask.add_done_callback(lambda _: self._ready())
        return self._mask.done() or not self._waits_outside

    def end_step(self) -> None:
        """Takes that the row has its next token."""
        self._mask = None

    def allowed(self) -> bytes:
        """Waits for the mask of the step that has begun. Raises GrammarError."""
        assert self._mask is not None
        try:
            return self._mask.result(MASK_TIMEOUT_S)
        except TimeoutError as error:
            raise GrammarError(f"cannot be followed: a mask took more than {MASK_TIMEOUT_S:g} s") from error

    def close(self) -> None:
        """Gives up what has not begun."""
        self._matching.cancel()
        if self._mask is not None:
            self._mask.cancel()

    def _compute(self, matcher: GrammarMatcher, token_id: int | None) -> bytes:
        started_s = time.monotonic()
        if token_id is not None:
            matcher.take(token_id)
        mask = matcher.mask()
        self._slow = time.monotonic() - started_s > SLOW_MASK_S
        return mask
