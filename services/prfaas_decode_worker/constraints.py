"""Grammars of the requests of a decode worker, by request."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from prfaas.engine.grammar.matcher import GrammarTokenizer
from prfaas_decode_worker.constraint import Constraint


class Constraints:
    """Threads that compile grammars and compute masks. Requests without a grammar have no part in it."""

    def __init__(self, tokenizer: GrammarTokenizer, ready: Callable[[], object]) -> None:
        """`ready` is called from any thread when a mask is there that a row waits for."""
        self._tokenizer = tokenizer
        self._ready = ready
        # Apart: a grammar that takes long to compile holds up the masks of no other one.
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._masking = ThreadPoolExecutor(2, thread_name_prefix="mask")
        self._constraints: dict[str, Constraint] = {}

    def begin(self, request_id: str, grammar: str) -> None:
        """Compiles the grammar while the request's KV is still to come."""
        matching = self._compiling.submit(self._tokenizer.matcher, grammar)
        self._constraints[request_id] = Constraint(matching, self._masking, self._ready)

    def get(self, request_id: str) -> Constraint | None:
        return self._constraints.get(request_id)

    def end(self, request_id: str) -> None:
        constraint = self._constraints.pop(request_id, None)
        if constraint is not None:
            constraint.close()

    def shut_down(self) -> None:
        for threads in (self._compiling, self._masking):
            threads.shutdown(wait=False, cancel_futures=True)
