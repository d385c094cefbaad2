"""One client against one stack."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from load.ecosystem.clients import ClientResult, Job, LoadClient
from prfaas.process.child import end_with_parent

STOP_S = 10.0


class ClientError(Exception):
    """A client that failed or took too long; the message ends with the last lines that it wrote."""


async def run_client(client: LoadClient, job: Job, environ: Mapping[str, str], timeout_s: float) -> ClientResult:
    """Runs the client to its end and reads its result. Raises ClientError."""
    job.out.mkdir(parents=True, exist_ok=True)
    log = job.out / "client.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *client.command(job),
            stdout=file,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ | dict(environ),
            cwd=job.out,
            preexec_fn=end_with_parent(),
        )
    try:
        async with asyncio.timeout(timeout_s):
            status = await process.wait()
    except TimeoutError:
        raise ClientError(f"{client.program.name} was not over after {timeout_s:g} s: {_end_of(log)}") from None
    finally:
        await _stopped(process)
    if status:
        raise ClientError(f"{client.program.name} ended with status {status}: {_end_of(log)}")
    try:
        return client.read(job.out)
    except (KeyError, ValueError, OSError) as error:
        raise ClientError(f"{client.program.name} left no result that can be read ({error!r}): {_end_of(log)}") from error


async def _stopped(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _end_of(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-3000:]
