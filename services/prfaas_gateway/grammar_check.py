"""Grammars of requests, made and checked on threads beside the event loop, within bounds on size and processor time."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from prfaas.contracts.codes import FailureCode
from prfaas.engine.grammar.forms import GrammarError, check
from prfaas_gateway.openai.answer_form import Form
from prfaas_gateway.openai.errors import invalid

COMPILE_CPU_S: Final = 0.08
"""Most processor time of a compilation. An ordinary schema takes a millisecond; a decode worker takes up to thrice as long as the
check here."""
_THREADS: Final = 2
_LEAST_WAIT_S: Final = 0.005


class GrammarChecker:
    """The threads. Compiling holds the interpreter's lock for moments only, so streams go on beside it."""

    def __init__(self, compile_cpu_s: float = COMPILE_CPU_S) -> None:
        self._compile_cpu_s = compile_cpu_s
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="grammar")
        self._free = asyncio.Semaphore(_THREADS)

    async def grammar_of(self, form: Form) -> str:
        """Returns the form's grammar, which decode workers can follow. Raises ApiError. The caller's deadline bounds the wait.

        A compilation that takes too long cannot be stopped. It keeps its thread until its end, which its bounds bring about."""
        await self._free.acquire()
        compilation = _Compilation(form)
        made = asyncio.get_running_loop().run_in_executor(self._threads, compilation.run)
        made.add_done_callback(self._done)
        # By its own clock: on a busy machine a small grammar may wait for a processor for longer than a large one computes.
        while not made.done() and (left_s := self._compile_cpu_s - compilation.cpu_s()) > 0:
            await asyncio.wait([made], timeout=max(left_s, _LEAST_WAIT_S))
        if not made.done():
            message = f"`{form.param}` is too large: it takes more than {self._compile_cpu_s * 1000:g} ms to compile."
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


class _Compilation:
    def __init__(self, form: Form) -> None:
        self._form = form
        self._clock: int | None = None
        """Clock of the thread that runs it; None before it runs."""
        self._begun_s = 0.0

    def run(self) -> str:
        """Raises GrammarError."""
        clock = time.pthread_getcpuclockid(threading.get_ident())
        self._begun_s = time.clock_gettime(clock)
        self._clock = clock
        try:
            grammar = self._form.make()
            check(grammar)
        except RecursionError as error:
            raise GrammarError("is nested too deeply") from error
        return grammar

    def cpu_s(self) -> float:
        """Returns the processor time that it has taken, while its thread lives."""
        return 0.0 if self._clock is None else time.clock_gettime(self._clock) - self._begun_s
