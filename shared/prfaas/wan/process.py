"""An emulated link as a process of its own, for a stack whose other processes must not be slowed by it, nor slow it."""

import asyncio
import json
import sys
from types import TracebackType
from typing import Self

import msgspec

from prfaas.process.child import end_with_parent
from prfaas.site.link_shape import LinkShape
from prfaas.wan.control import LinkChange, LinkStatus, change_link


class WanProcessError(Exception):
    """Raised when the link's process does not start."""


class WanProcess:
    """A link to the TCP server at `connect`. `port` and `control_port` are known once it is started."""

    def __init__(self, connect: tuple[str, int], shape: LinkShape) -> None:
        self.port = 0
        self.control_port = 0
        self._connect = connect
        self._shape = shape
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, timeout_s: float = 30.0) -> Self:
        """Starts the link, on the port that it had before if it was started before. Raises WanProcessError."""
        shape = [
            f"--{name}={value}"
            for name, value in msgspec.to_builtins(self._shape).items()
            if name != "between" and value is not None
        ]
        host, port = self._connect
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "prfaas.wan", "--connect", f"{host}:{port}", "--listen", f"127.0.0.1:{self.port}", *shape),
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for whoever started us
            preexec_fn=end_with_parent(),
        )
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
            ports = json.loads(line)
        except (TimeoutError, ValueError) as error:
            await self.stop()
            raise WanProcessError(f"the link to {host}:{port} did not start within {timeout_s:g} s") from error
        self.port, self.control_port = ports["port"], ports["control-port"]
        return self

    async def wait(self) -> int:
        assert self._process is not None, "not started"
        return await self._process.wait()

    def kill(self) -> None:
        """Sends SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def change(self, change: LinkChange) -> LinkStatus:
        """Changes the link. Raises LinkControlError."""
        return await change_link("127.0.0.1", self.control_port, change)

    async def stop(self, timeout_s: float = 30.0) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()
