"""The whole service on a real server, with each of its parts broken for one request: the others are answered, nothing is left."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.errors import RemoteError
from prfaas.contracts import subjects, to_gateway
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import AskRunning, Generate, Sampling
from prfaas.contracts.to_gateway import Failed, Finished, GenerateAccepted, GenerateEvent, GenerateRefused, Placement, Tokens
from prfaas.contracts.wire import pack_tokens
from prfaas.engine.emulated import EmulatedConfig
from prfaas.engine.factory import EngineConfig
from prfaas.process.runner import ServiceContext
from prfaas.process.tasks import Tasks
from prfaas.stack.nats_server import NatsServer
from prfaas.telemetry.tracing import Tracing
from prfaas_decode_worker.config import DecodeWorkerConfig
from prfaas_decode_worker.service import DecodeWorkerService
from tests.bus.conftest import server as server

SITE, MODEL, WORKER, GATEWAY = "home", "emulated-1t", "d1", "gateway"
EVENTS = subjects.events(SITE, GATEWAY)
DEADLINE_S = 60.0
POISONED, GOOD = "poisoned", ("first", "second")
MAX_TOKENS = 12


class Running:
    """A service in this process, and a gateway by hand."""

    def __init__(self, service: DecodeWorkerService, bus: ControlBus, tasks: Tasks) -> None:
        self.service, self.bus, self.tasks = service, bus, tasks
        self.heard: dict[str, list[GenerateEvent]] = {}

    def hear(self, event: GenerateEvent) -> None:
        self.heard.setdefault(event.request_id, []).append(event)

    async def ask(self, request_id: str) -> str:
        """Returns how the request ended: `finished`, or the code that its asker hears."""
        # A prompt of one token needs no prefill.
        placement = Placement(
            transfer_id=request_id, prefill_site=SITE, decode_worker=WORKER, outcome=Outcome.LOCAL_SHORT, reason="",
            fallback_after_s=9.0,
        )  # fmt: skip
        generate = Generate(
            request_id=request_id,
            model=MODEL,
            placement=placement,
            token_ids=pack_tokens([7]),
            sampling=Sampling(max_tokens=MAX_TOKENS, temperature=0, ignore_eos=True, top_logprobs=1, stop=("never said",)),
            reply_to=EVENTS,
            ttft_deadline_s=DEADLINE_S,
        )
        reply_type = GenerateAccepted | GenerateRefused
        try:
            answer = await self.bus.request(subjects.generate(SITE, WORKER), generate, reply_type, DEADLINE_S)
        except RemoteError as error:
            return error.code
        if isinstance(answer, GenerateRefused):
            return answer.code
        async with asyncio.timeout(DEADLINE_S):
            while not isinstance(last := self.heard.get(request_id, [None])[-1], Finished | Failed):
                await asyncio.sleep(0.005)
        return "finished" if isinstance(last, Finished) else last.code

    def text(self, request_id: str) -> str:
        return "".join(event.text for event in self.heard[request_id] if isinstance(event, Tokens | Finished))

    async def until_nothing_is_left(self) -> None:
        service = self.service
        async with asyncio.timeout(DEADLINE_S):
            while service._core.requests or service._answers or service._attempts._running or service._attempts.sequences:
                await asyncio.sleep(0.005)
        service._core.validate()
        assert service._batch is not None
        assert not service._batch._samplers and not service._spans._generate and not service._spans._decode
        assert not self.tasks.failed.done()


@asynccontextmanager
async def running(server: NatsServer) -> AsyncIterator[Running]:
    tasks = Tasks()
    config = DecodeWorkerConfig(
        site=SITE,
        name=WORKER,
        control=NatsEndpoint(url=server.client_url),
        bulk=NatsEndpoint(url=server.client_url),
        engine=EngineConfig(engine="emulated", model=MODEL, emulated=EmulatedConfig(time_scale=1e3, byte_scale=600.0)),
    )
    service = DecodeWorkerService(config, ServiceContext(tasks, CollectorRegistry(), Tracing()))
    bus = await ControlBus.connect(NatsEndpoint(url=server.client_url), "gateway")
    try:
        await service.start()
        place = Running(service, bus, tasks)
        await bus.subscribe(subjects.events_from(EVENTS, WORKER), GenerateEvent, place.hear)
        yield place
    finally:
        await tasks.cancel_all(DEADLINE_S)
        await service.stop()
        await bus.drain()


def mentions(value: Any) -> Iterator[str]:
    """Yields the request ids in the arguments of a call."""
    if isinstance(value, str):
        yield value
    for name in ("request_id", "order", "event", "generate", "ended", "sequence"):
        if hasattr(value, name):
            yield from mentions(getattr(value, name))


def breaking(part: Callable[..., Any], *, for_all: bool) -> Callable[..., Any]:
    def broken(*args: Any, **kwargs: Any) -> Any:
        if for_all or POISONED in [name for value in (*args, *kwargs.values()) for name in mentions(value)]:
            raise RuntimeError("broken on purpose")
        return part(*args, **kwargs)

    return broken


OF_ONE_REQUEST = {
    "spans arrived": "_spans.arrived",
    "spans joined": "_spans.joined",
    "attempt begun": "_attempts.begin",
    "attempt run": "_attempts._run",
    "sampler": "_batch._input",
    "core": "_core._generate",
}
OF_ALL = {
    "tokens counted": "_metrics.tokens.inc",
    "step timed": "_metrics.step_s.observe",
    "pace observed": "_batch.observed.observe",
    "end counted": "_metrics.ended",
    "decoding timed": "_metrics.decode_s.observe",
    "output length": "_output_tokens.observe",
    "spans ended": "_spans._end",
}


def replace(monkeypatch: pytest.MonkeyPatch, service: DecodeWorkerService, path: str, *, for_all: bool) -> None:
    *owners, name = path.split(".")
    owner: Any = service
    for attribute in owners:
        owner = getattr(owner, attribute)
    monkeypatch.setattr(owner, name, breaking(getattr(owner, name), for_all=for_all), raising=False)


async def answers(place: Running) -> dict[str, str]:
    names = (GOOD[0], POISONED, GOOD[1])
    return dict(zip(names, await asyncio.gather(*map(place.ask, names)), strict=True))


@pytest.mark.parametrize("what", OF_ONE_REQUEST)
async def test_a_part_that_breaks_for_one_request_ends_that_one_with_a_code(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with running(server) as place:
        with monkeypatch.context() as broken:
            replace(broken, place.service, OF_ONE_REQUEST[what], for_all=False)
            ends = await answers(place)
        assert [ends[name] for name in GOOD] == ["finished", "finished"]
        assert ends[POISONED] in {"finished", "internal_error", "internal", "engine"}
        assert place.text(GOOD[0]) == place.text(GOOD[1])
        await place.until_nothing_is_left()
        assert await place.ask("the next one") == "finished"


@pytest.mark.parametrize("what", OF_ALL)
async def test_a_figure_that_cannot_be_kept_costs_no_request_anything(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with running(server) as place:
        with monkeypatch.context() as broken:
            replace(broken, place.service, OF_ALL[what], for_all=True)
            ends = await answers(place)
            assert set(ends.values()) == {"finished"}
            assert len({place.text(name) for name in ends}) == 1
            await place.until_nothing_is_left()


async def test_events_that_a_gateway_missed_are_sent_again_to_it_alone(server: NatsServer) -> None:
    async with running(server) as place:
        assert await place.ask("r") == "finished"
        heard = place.heard["r"].copy()

        async def ask_again(gateway: str) -> None:
            asked = AskRunning(gateway=gateway, gateway_incarnation="i", resend={"r": 2, "unknown": 0})
            await place.bus.request(subjects.decode_alive(SITE, WORKER), asked, to_gateway.Running, DEADLINE_S)

        await ask_again("another")
        await ask_again(GATEWAY)
        async with asyncio.timeout(DEADLINE_S):
            while len(place.heard["r"]) < 2 * len(heard) - 2:
                await asyncio.sleep(0.005)
        assert place.heard["r"] == heard + heard[2:]
