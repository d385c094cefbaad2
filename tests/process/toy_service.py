"""A process for tests of the runner: `python toy_service.py --site a --control.url nats://x [--behaviour B]`."""

import asyncio
import sys
import threading
from collections.abc import Sequence
from typing import ClassVar, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from prfaas.process import runner
from prfaas.process.config import ServiceConfig
from prfaas.process.runner import ServiceContext, run_service
from prfaas.telemetry.logs import get_logger

log = get_logger("toy")


class ToyConfig(ServiceConfig, frozen=True, kw_only=True):
    role: ClassVar[str] = "toy"
    behaviour: Literal["good", "crash", "slow_start", "bad_start", "slow_drain", "hanging_thread", "hanging_task"] = "good"


class Toy:
    def __init__(self, config: ToyConfig, context: ServiceContext) -> None:
        self._config = config
        self._context = context
        self._crash = asyncio.Event()
        self._never = asyncio.Event()
        self._drained = asyncio.Event()

    async def start(self) -> None:
        self._context.tracing.start("toy_start", parent=None).end()
        self._context.tasks.spawn("crasher", self._crash_when_told())
        if self._config.behaviour == "slow_start":
            log.info("start_begun")
            await self._never.wait()
        if self._config.behaviour == "bad_start":
            raise RuntimeError("the toy is broken")
        if self._config.behaviour == "hanging_task":
            self._context.tasks.spawn("stubborn", self._ignore_cancellation())

    def app(self, routes: Sequence[Route]) -> ASGIApp:
        own = [
            Route("/crash", self._tell_to_crash, methods=["POST"]),
            Route("/become", self._become, methods=["POST"]),
            Route("/end_drain", self._end_drain, methods=["POST"]),
        ]
        return Starlette(routes=[*routes, *own])

    def ready(self) -> str | None:
        return None

    async def drain(self, timeout_s: float) -> None:
        log.info("drain_begun", timeout_s=timeout_s)
        if self._config.behaviour == "slow_drain":
            await self._drained.wait()

    async def stop(self) -> None:
        log.info("stop_called")
        if self._config.behaviour == "hanging_thread":
            threading.Thread(target=threading.Event().wait).start()

    async def _crash_when_told(self) -> None:
        await self._crash.wait()
        raise ValueError("told to crash")

    async def _ignore_cancellation(self) -> None:
        while True:
            try:
                await self._never.wait()
            except asyncio.CancelledError:
                continue

    async def _tell_to_crash(self, _request: Request) -> PlainTextResponse:
        self._crash.set()
        return PlainTextResponse("as you wish")

    async def _end_drain(self, _request: Request) -> PlainTextResponse:
        self._drained.set()
        return PlainTextResponse("as you wish")

    async def _become(self, request: Request) -> PlainTextResponse:
        assert self._context.program is not None
        self._context.program.become(request.query_params["role"])
        return PlainTextResponse("as you wish")


if __name__ == "__main__":
    if any(argument.startswith("hanging") for argument in sys.argv):
        runner.STOP_DEADLINE_S = 1.0  # so that the tests of what hangs are quick
    sys.exit(run_service(ToyConfig, Toy))
