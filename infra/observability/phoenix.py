"""arize-phoenix beside a stack: a web page with each request's trace as one tree. It has a virtual environment of its own.

`python -m infra.observability.phoenix prfaas up` runs a command, such as this stack, that sends its traces there.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from prfaas.process import interruption
from prfaas.process.child import end_with_parent
from prfaas.stack.free_port import free_port

PROGRAM = Path(__file__).parents[2] / ".venv-phoenix" / "bin" / "phoenix"
_UP_WITHIN_S = 120.0
_STOPS_WITHIN_S = 20.0
_POLL_S = 0.2


class PhoenixError(Exception):
    """Raised when Phoenix is not installed or does not start."""


class Phoenix:
    """Owns `directory`, where Phoenix keeps its database and its log."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"http://127.0.0.1:{free_port()}"

    @property
    def environ(self) -> dict[str, str]:
        """Variables with which services send their traces there, soon after each request."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "500"}

    async def __aenter__(self) -> Self:
        """Starts it. Raises PhoenixError."""
        if not PROGRAM.exists():
            raise PhoenixError(f"{PROGRAM} is not there; `make up OTEL=phoenix` installs it")
        settings = {
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": self.url.rpartition(":")[2],
            "PHOENIX_GRPC_PORT": str(free_port()),
            "PHOENIX_WORKING_DIR": str(self._directory),
            "PHOENIX_TELEMETRY_ENABLED": "false",
        }
        with (self._directory / "phoenix.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(PROGRAM),
                "serve",
                stdout=log,
                stderr=log,
                env=os.environ | settings,
                start_new_session=True,
                preexec_fn=end_with_parent(),
            )
        try:
            await self._until_up(self._process)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    async def _until_up(self, process: asyncio.subprocess.Process) -> None:
        until_at = time.monotonic() + _UP_WITHIN_S
        async with httpx.AsyncClient(timeout=5.0) as client:
            while time.monotonic() < until_at:
                if process.returncode is not None:
                    raise PhoenixError(f"phoenix exited with {process.returncode}; its log: {self._directory / 'phoenix.log'}")
                try:
                    if (await client.get(f"{self.url}/healthz")).is_success:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(_POLL_S)
        raise PhoenixError(f"phoenix was not up within {_UP_WITHIN_S:g} s; its log: {self._directory / 'phoenix.log'}")

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOPS_WITHIN_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _run(command: list[str], directory: Path) -> int:
    """Returns the command's exit status. Raises PhoenixError."""
    print("starting arize-phoenix", flush=True)
    async with Phoenix(directory) as phoenix:
        print(f"Traces: {phoenix.url}", flush=True)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # They reach the command too, which ends first.
            asyncio.get_running_loop().add_signal_handler(number, lambda: None)
        child = await asyncio.create_subprocess_exec(*command, env=os.environ | phoenix.environ, preexec_fn=end_with_parent())
        return await child.wait()


def main() -> int:
    try:
        return interruption.run(_run(sys.argv[1:], Path(".run/phoenix").absolute()))
    except PhoenixError as error:
        print(f"phoenix: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
