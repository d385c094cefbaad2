"""Grammars of requests, made and checked on threads beside the event loop, within bounds on size and time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from prfaas.contracts.codes import FailureCode
from prfaas.engine.grammar.forms import GrammarError, check
from prfaas_gateway.openai.answer_form import Form
from prfaas_gateway.openai.errors import invalid

COMPILE_TIMEOUT_S: Final = 0.08
"""Longest compilation. An ordinary schema takes a millisecond; a decode worker takes up to thrice as long as the check here."""
_THREADS: Final = 2


class GrammarChecker:
    """The threads. Compiling holds the interpreter's lock for moments only, so streams go on beside it."""

    def __init__(self, timeout_s: float = COMPILE_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="grammar")
        self._free = asyncio.Semaphore(_THREADS)

    async def grammar_of(self, form: Form) -> str:
        """Returns the form's grammar, which decode workers can follow. Raises ApiError.

        A compilation that takes too long cannot be stopped. It keeps its thread until its end, which its bounds bring about."""
        await self._free.acquire()
        made = asyncio.get_running_loop().run_in_executor(self._threads, _checked, form.make)
        made.add_done_callback(self._done)
        await asyncio.wait([made], timeout=self._timeout_s)
        if not made.done():
            message = f"`{form.param}` is too large: it takes more than {self._timeout_s * 1000:g} ms to compile."
            raise invalid(message, form.param, FailureCode.UNSUPPORTED_VALUE)
        try:
            return made.result()
        except GrammarError as error:
            raise invalid(f"`{form.param}` {error}.", form.param, FailureCode.INVALID_VALUE) from error

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _done(self, made: asyncio.Future[str]) -> None:
        self._free.release()
        if not made.cancelled():
            made.exception()  # of a request that has gone: nobody else asks


def _checked(make: Callable[[], str]) -> str:
    try:
        grammar = make()
        check(grammar)
    except RecursionError as error:
        raise GrammarError("is nested too deeply") from error
    return grammar
