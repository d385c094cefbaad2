"""Calls to the pool are made on the engine's thread: at once when it is idle, else between its chunks."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from prfaas_prefill_worker.pool_calls import PoolCalls

DEADLINE_S = 60.0


def test_calls_are_made_on_the_engines_thread_in_order_also_in_the_middle_of_a_prefill() -> None:
    with ThreadPoolExecutor(1) as thread:
        calls = PoolCalls(thread)
        engine = thread.submit(threading.get_ident).result(DEADLINE_S)
        assert calls.submit(threading.get_ident).result(DEADLINE_S) == engine
        chunk, may_end, made = threading.Event(), threading.Event(), list[int]()

        def prefill() -> list[int]:
            chunk.set()
            assert may_end.wait(DEADLINE_S)
            calls.run_waiting()
            return list(made)

        running = thread.submit(prefill)
        assert chunk.wait(DEADLINE_S)
        futures = [calls.submit(lambda number=number: made.append(number)) for number in range(3)]  # type: ignore[misc]
        assert futures[1].cancel()
        may_end.set()
        assert running.result(DEADLINE_S) == [0, 2]


def test_what_a_call_raises_is_its_callers() -> None:
    def fail() -> None:
        raise ValueError("no such block")

    with ThreadPoolExecutor(1) as thread:
        calls = PoolCalls(thread)
        with pytest.raises(ValueError, match="no such block"):
            calls.submit(fail).result(DEADLINE_S)
        assert calls.submit(lambda: 7).result(DEADLINE_S) == 7
