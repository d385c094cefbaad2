"""A service as a real process: started from a configuration file, watched by its log, stopped by SIGTERM."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import tomli_w

from prfaas.process.child import end_with_parent
from prfaas.secrets.secret_files import make_private_directory, open_secret, write_secret
from prfaas.stack.last_words import last_words

Heard = Callable[[Mapping[str, Any]], None]
_POLL_S = 0.02


class ServiceProcessError(Exception):
    """Raised when a service does not start, or dies; the message is one line that names its log."""


class ServiceProcess:
    def __init__(self, role: str, name: str, config: Mapping[str, Any], directory: Path, environ: Mapping[str, str]) -> None:
        """Takes the console script's name without `prfaas-` as `role`; `environ` is added to this process's own."""
        self.role = role
        self.name = name
        self.http_port = 0
        self._config = config
        self._environ = environ
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0
        """Bytes of the log that earlier starts wrote."""

    @property
    def whole_name(self) -> str:
        return f"prfaas-{self.role} {self.name!r}"

    @property
    def log_path(self) -> Path:
        return self._directory / f"{self.name}.log"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode if self._process else None

    @property
    def config(self) -> Mapping[str, Any]:
        """Configuration that the next start takes."""
        return self._config

    def configure(self, changes: Mapping[str, Any]) -> Self:
        """Changes keys of the configuration; the next start takes them."""
        self._config = {**self._config, **changes}
        return self

    def run_in(self, environ: Mapping[str, str]) -> Self:
        """Replaces what is added to this process's own environment; the next start takes it."""
        self._environ = environ
        return self

    def twin(self, directory: Path) -> "ServiceProcess":
        """Returns another process of the same configuration, name included, which keeps its files in `directory`."""
        return ServiceProcess(self.role, self.name, {**self._config, "http-port": 0}, directory, self._environ)

    async def spawn(self) -> Self:
        """Returns at once; `wait_ready` says when it serves."""
        make_private_directory(self._directory)
        config_path = self._directory / f"{self.name}.toml"
        write_secret(config_path, tomli_w.dumps(self._config).encode())  # it may hold API keys
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        with os.fdopen(open_secret(self.log_path, append=True), "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", f"prfaas_{self.role.replace('-', '_')}", "--config", str(config_path)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | dict(self._environ),
                start_new_session=True,  # Ctrl-C in a terminal is for whoever started us, who drains one after another
                preexec_fn=end_with_parent(),
            )
        return self

    async def wait_ready(self, timeout_s: float, heard: Heard = lambda entry: None) -> None:
        """Returns when the service is ready, after `heard` has been told every entry of its log until then.

        Raises ServiceProcessError when it ends or is late."""
        until_at = time.monotonic() + timeout_s
        read_bytes = self._log_start
        while True:
            exit_code = self.exit_code  # before the log: what it said last is in it then
            entries, read_bytes = self._entries_after(read_bytes)
            for entry in entries:
                heard(entry)
                if entry.get("event") == "ready":
                    self.http_port = entry["http_port"]
                    return
            if exit_code is not None:
                raise ServiceProcessError(
                    f"{self.whole_name} {ended_with(exit_code)}: {self.last_words()}; its log: {self.log_path}"
                )
            if time.monotonic() > until_at:
                raise ServiceProcessError(
                    f"{self.whole_name} was not ready within {timeout_s:g} s: {self.last_words() or 'it told no error'}; "
                    f"its log: {self.log_path}"
                )
            await asyncio.sleep(_POLL_S)

    async def wait(self) -> int:
        assert self._process is not None, "not started"
        return await self._process.wait()

    def terminate(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """Sends SIGKILL, as a power cut would end it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self, timeout_s: float) -> int:
        """Sends SIGTERM, and SIGKILL when that takes longer than `timeout_s`. Returns the exit code."""
        self.terminate()
        try:
            return await asyncio.wait_for(self.wait(), timeout_s)
        except TimeoutError:
            self.kill()
            return await self.wait()

    def log_end(self, lines: int = 15) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def last_words(self) -> str:
        """Returns the last error in the log of this start, in one line; empty: none."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return last_words(log.read().decode(errors="replace").splitlines())

    def _entries_after(self, read_bytes: int) -> tuple[list[dict[str, Any]], int]:
        """Returns the log's entries after its first `read_bytes` bytes, and the bytes read then. An unfinished line is left."""
        entries = []
        with self.log_path.open("rb") as log:
            log.seek(read_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                read_bytes += len(line)
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    entries.append(entry)
        return entries, read_bytes


def ended_with(exit_code: int) -> str:
    """Says how a process ended."""
    return f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exited with {exit_code}"
