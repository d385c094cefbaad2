import asyncio
import os
import signal

import pytest

from prfaas.cli import event_loop


def test_a_result_is_returned_and_an_error_raised() -> None:
    async def answer() -> int:
        return 3

    async def fail() -> int:
        raise ValueError("why")

    assert event_loop.run(answer()) == 3
    with pytest.raises(ValueError, match="why"):
        event_loop.run(fail())


def test_ctrl_c_cancels_between_two_callbacks_and_not_within_one() -> None:
    order: list[str] = []

    def callback() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        order.append("callback ended")

    async def wait() -> None:
        asyncio.get_running_loop().call_soon(callback)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            order.append("cancelled")
            raise

    with pytest.raises(KeyboardInterrupt):
        event_loop.run(wait())
    assert order == ["callback ended", "cancelled"]


def test_a_cancellation_of_its_own_is_no_ctrl_c() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        event_loop.run(cancelled())
