"""A stack in the foreground of a terminal: it says what happens, keeps processes alive, and ends with the terminal."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path
from typing import Literal

from prfaas.engine.model_reference import model_name
from prfaas.process.interruption import INTERRUPTED
from prfaas.site.sites import Description, Role
from prfaas.stack.launch import say
from prfaas.stack.nats_server import NatsServerError
from prfaas.stack.rotation import Rotation, RotationError
from prfaas.stack.stack import Stack
from prfaas.stack.supervisor import Supervisor
from prfaas.stack.targets import write_targets

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def how_to_ask(url: str, model: str) -> str:
    return f"""
Ready. Ask it something:

  curl -N {url}/v1/completions -H 'content-type: application/json' \\
    -d '{{"model": "{model}", "prompt": "The capital of France is", "max_tokens": 32, "temperature": 0, "stream": true}}'

  python -c 'from openai import OpenAI; c = OpenAI(base_url="{url}/v1", api_key="none"); print(c.chat.completions.create(
    model="{model}", max_tokens=64, messages=[{{"role": "user", "content": "What is a dragon?"}}]).choices[0].message.content)'

  prfaas chat --url {url}

Console: {url}/console   or: prfaas top --target {url}
Metrics: {url}/metrics   Stop: Ctrl-C
"""


def tell(line: str) -> None:
    """Prints a line; a terminal that is closed does not hear it, and that ends nothing."""
    with contextlib.suppress(OSError):
        say(line)


class StopSignals:
    """The first signal asks for a stop, each later one for haste."""

    def __init__(self, stack: Stack) -> None:
        self.asked = asyncio.Event()
        self.hurried = False
        self._stack = stack
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` has it that way
                loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        if not self.asked.is_set():
            self.asked.set()
            tell("stopping: answers under way may finish; Ctrl-C again stops at once")
            return
        self.hurried = True
        tell("stopping at once")
        self._stack.kill()


class Rotator:
    """Rotates all keys and certificates of a running stack when it is told to, one rotation at a time."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._rotate())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _rotate(self) -> None:
        tell("rotating all keys and certificates")
        try:
            await Rotation(self._stack.sites, tell).everything()
        except (NatsServerError, RotationError) as error:
            tell(f"the rotation is not over: {error}")


async def run_in_foreground(description: Description, directory: Path) -> int:
    """Returns the exit status, once a signal has ended it. Raises the errors of `Stack.start`."""
    started_at = time.monotonic()
    stack = Stack(description, directory, progress=tell)
    signals = StopSignals(stack)
    starting = asyncio.ensure_future(stack.start())
    stopping = asyncio.ensure_future(signals.asked.wait())
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
        return INTERRUPTED
    starting.result()
    tell(f"all is ready after {time.monotonic() - started_at:.1f} s")
    await _serve(stack, stopping)
    await stack.stop()
    return INTERRUPTED if signals.hurried else 0


async def _serve(stack: Stack, stopping: asyncio.Task[Literal[True]]) -> None:
    """Returns when a stop is asked for."""
    for site in dict.fromkeys(each.site for each in stack.description.services if each.role is Role.GATEWAY):
        tell(how_to_ask(stack.gateway_url(site), model_name(stack.description.model)))
    write_targets(stack, stack.directory / "targets.json")
    tell(f"Logs, configuration, and targets.json for Prometheus: {stack.directory}")
    rotator, supervisor = Rotator(stack), Supervisor(stack, tell)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, rotator.begin)
    supervisor.start()
    await stopping
    await supervisor.close()
    await rotator.close()
