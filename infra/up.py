"""`make up`: the sites of one description in the foreground, until Ctrl-C. SIGHUP rotates all keys and certificates."""

import argparse
import asyncio
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from infra.nats_server import NatsServerError
from infra.observability.phoenix import Phoenix, PhoenixError
from infra.observability.targets import write_targets
from infra.rotation import Rotation, RotationError
from infra.service_process import ServiceProcessError
from infra.stack import Stack
from infra.wan.process import WanProcessError
from prfaas.engine.weights import WeightsError, prepare
from prfaas.site.sites import Description, DescriptionError, Role, Service, load_description

DEMO = Path(__file__).with_name("sites.toml")
RUN_DIRECTORY = Path(__file__).parents[1] / ".run"

START_ERRORS = (PhoenixError, NatsServerError, WanProcessError, ServiceProcessError, DescriptionError, WeightsError)


def say(line: str) -> None:
    print(line, flush=True)


def fresh_directory(name: str) -> Path:
    """Makes an empty folder. Logs of the last run stay until the next one of the same name."""
    directory = RUN_DIRECTORY / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def describe(path: Path, model: str | None, port: int | None) -> Description:
    """Returns the description with the model and the gateway's port replaced where asked for. Raises DescriptionError."""
    description = load_description(path)
    gateways = sum(service.role is Role.GATEWAY for service in description.services)

    def at_port(service: Service) -> Service:
        if not port or service.role is not Role.GATEWAY:
            return service
        if gateways == 1:
            return msgspec.structs.replace(service, http_port=port)
        return msgspec.structs.replace(service, config=service.config | {"http-shared-port": port})

    services = tuple(map(at_port, description.services))
    return msgspec.structs.replace(description, services=services, model=model or description.model)


def how_to_ask(url: str, model: str) -> str:
    return f"""
Ready. Ask it something:

  curl -N {url}/v1/completions -H 'content-type: application/json' \\
    -d '{{"model": "{model}", "prompt": "The capital of France is", "max_tokens": 32, "temperature": 0, "stream": true}}'

  python -c 'from openai import OpenAI; c = OpenAI(base_url="{url}/v1", api_key="none"); print(c.chat.completions.create(
    model="{model}", max_tokens=64, messages=[{{"role": "user", "content": "What is a dragon?"}}]).choices[0].message.content)'

Metrics: {url}/metrics   Stop: Ctrl-C
"""


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
        say("rotating all keys and certificates")
        try:
            await Rotation(self._stack.sites, say).everything()
        except (NatsServerError, RotationError) as error:
            say(f"the rotation is not over: {error}")


async def run(description: Description, traces: str | None) -> int:
    directory = fresh_directory("up")
    if traces != "phoenix":
        return await run_stack(description, directory, {})
    say("starting arize-phoenix")
    async with Phoenix(directory / "phoenix") as phoenix:
        say(f"Traces: {phoenix.url}")
        return await run_stack(description, directory, phoenix.environ)


async def run_stack(description: Description, directory: Path, environ: Mapping[str, str]) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    stack = Stack(description, directory, environ=environ, progress=say)
    starting = asyncio.ensure_future(stack.start())
    waiting = asyncio.ensure_future(stopped.wait())
    await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
        return 130
    starting.result()
    site = next(service.site for service in description.services if service.role == Role.GATEWAY)
    say(how_to_ask(stack.gateway_url(site), description.model))
    write_targets(stack, directory / "targets.json")
    say(f"Logs, configuration, and targets.json for Prometheus: {directory}")
    rotating = Rotator(stack)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, rotating.begin)
    died = asyncio.ensure_future(stack.first_exit())
    await asyncio.wait([waiting, died], return_when=asyncio.FIRST_COMPLETED)
    code = 0
    if died.done():
        process = died.result()
        say(f"{process.name} exited with {process.exit_code}; stopping the rest. The end of its log:\n{process.log_end()}")
        code = 1
    died.cancel()
    await rotating.close()
    say("stopping")
    await stack.stop()
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.up", description=__doc__)
    parser.add_argument("--sites", type=Path, default=DEMO, help="description of the sites (default: the demo's)")
    parser.add_argument("--model", help="instead of the description's")
    parser.add_argument("--port", type=int, default=8000, help="of the gateway (default 8000)")
    parser.add_argument("--traces", choices=["phoenix"], help="show each request's trace in arize-phoenix")
    arguments = parser.parse_args()
    try:
        description = describe(arguments.sites, arguments.model, arguments.port)
        say(f"preparing {description.model}")
        prepare(description.model)
        return asyncio.run(run(description, arguments.traces))
    except START_ERRORS as error:
        print(f"infra.up: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
