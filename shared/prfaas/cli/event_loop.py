"""The event loop of a command."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs `main` to its end. Raises KeyboardInterrupt when Ctrl-C was pressed.

    asyncio.run alone cancels from within the signal, in the middle of any callback, which then fails with a traceback: here the
    loop cancels between two of them.
    """
    pressed = False

    async def interruptible() -> Result:
        task = asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            nonlocal pressed
            pressed = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
        return await main

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        if pressed:
            raise KeyboardInterrupt from None
        raise
