"""Ctrl-C in a program of a terminal: it ends with a sentence."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it."""


def exit_status(main: Callable[[], int | None]) -> int:
    """Returns the exit status of a program; after Ctrl-C it says so instead of showing where it was."""
    try:
        return main() or 0
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        return INTERRUPTED


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs `main` in an event loop to its end. Raises KeyboardInterrupt when Ctrl-C was pressed.

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
