"""A test double of a site: a scheduler and a decode worker that speak the contracts over a real nats-server, by script."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from prfaas.bus.control import ERROR_CODE
from prfaas.contracts import subjects
from prfaas.contracts.kv import TransferReport
from prfaas.contracts.scheduler_state import SchedulerState
from prfaas.contracts.terms import Outcome, Role
from prfaas.contracts.to_decode import SAMPLING_LEVEL, AskRunning, CancelGenerate, Generate
from prfaas.contracts.to_gateway import (
    Failed,
    Finished,
    GenerateAccepted,
    GenerateRefused,
    Placement,
    Refusal,
    Running,
    Started,
    TokenDetail,
    Tokens,
)
from prfaas.contracts.to_scheduler import Heartbeat, PlaceRequest
from prfaas.contracts.wire import decode, encode

SITE = "home"
WORKER = "decode-1"
DEADLINE_S = 60.0
"""Longest wait in these tests; none comes near it unless something is broken."""

PLACEMENT = Placement(
    transfer_id="t",
    prefill_site="east",
    decode_worker=WORKER,
    outcome=Outcome.OFFLOADED,
    reason="4,000 tokens > 512",
    fallback_after_s=1.0,
)


FULL = Refusal(code="overloaded", message="all workers are full", retry_after_s=0.1)


class Emitter:
    """Sends one request's events, numbered."""

    def __init__(self, client: Client, generate: Generate) -> None:
        self._client = client
        self._generate = generate
        self.sequence = 0
        self.loses = False
        """True while what is sent does not arrive."""
        self._sent: list[bytes] = []

    async def started(self, reason: str = "4,000 tokens > 512", prefill_site: str = "east") -> None:
        await self._send(
            Started, prefill_site=prefill_site, outcome=Outcome.OFFLOADED, reason=reason, cached_tokens=2, kv_bytes=1000
        )

    async def tokens(self, text: str, details: tuple[TokenDetail, ...] = ()) -> None:
        await self._send(Tokens, text=text, token_ids=(7,), details=details)

    async def finished(self, completion_tokens: int, text: str = "", reason: str = "stop", stop: str = "") -> None:
        said = {"finish_reason": reason, "stop": stop, "text": text, "completion_tokens": completion_tokens}
        await self._send(Finished, **said, transfer=TransferReport(bytes=1000, frames=2, attempts=1))

    async def failed(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        await self._send(Failed, code=code, message=message, retry_after_s=retry_after_s)

    async def _send(self, kind: type[Any], **fields: Any) -> None:
        event = kind(request_id=self._generate.request_id, sequence=self.sequence, **fields)
        self.sequence += 1
        self._sent.append(encode(event))
        if not self.loses:
            await self.raw(self._sent[-1])

    async def send_again(self, sequence: int) -> None:
        for data in self._sent[sequence:]:
            await self.raw(data)

    async def raw(self, data: bytes) -> None:
        await self._client.publish(subjects.events_from(self._generate.reply_to, WORKER), data)


Script = Callable[[Generate, Emitter], Coroutine[Any, Any, None]]


async def say_hello(_generate: Generate, emit: Emitter) -> None:
    await emit.started()
    for text in ("hel", "lo", " world"):
        await emit.tokens(text)
    await emit.finished(4)


@dataclass
class ScriptedSite:
    client: Client
    placement: Placement | Refusal = PLACEMENT
    placement_again: Placement | Refusal = PLACEMENT
    """Placement of a request that a decode worker refused."""
    refusal: GenerateRefused | None = None
    script: Script = say_hello
    incarnation: str = "i1"
    """Identity of the worker that accepts requests; another one is the worker started again."""
    sampling_level: int = SAMPLING_LEVEL
    """Another one: the worker is of another version."""
    slots: int | None = None
    """Requests that the worker runs at once; more are refused, by the scheduler or by the worker."""
    answers_place: bool = True
    answers_generate: bool = True
    sends_again: bool = False
    """True when the worker sends events again that a gateway says it has missed."""
    announces_home: bool = False
    """True when a prefill worker and the decode worker beat."""
    state: SchedulerState | None = None
    """Answer to who asks for the scheduler's state; None: there is none."""
    state_asked: int = 0
    """Times that somebody asked for it."""
    placed: list[PlaceRequest] = field(default_factory=list)
    generated: list[Generate] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    """Headers of the Generate messages."""
    cancelled: "asyncio.Queue[CancelGenerate]" = field(default_factory=asyncio.Queue)
    running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    emitters: dict[str, Emitter] = field(default_factory=dict)
    alive: Subscription | None = None
    announcing: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, url: str) -> "ScriptedSite":
        site = cls(await nats.connect(url))
        await site.client.subscribe(subjects.place(SITE), cb=site._place)
        await site.client.subscribe(subjects.scheduler_state(SITE), cb=site._tell_state)
        await site.client.subscribe(subjects.generate(SITE, WORKER), cb=site._generate)
        await site.client.subscribe(subjects.cancel_generate(SITE, WORKER), cb=site._cancel)
        site.alive = await site.client.subscribe(subjects.decode_alive(SITE, WORKER), cb=site._say_running)
        await site.client.flush()
        site.announcing = asyncio.create_task(site._keep_announcing())
        return site

    async def announce(self, worker: str = WORKER, *, gone: bool = False, model: str = "tiny", draining: bool = False) -> None:
        """Puts a heartbeat into the workers' bucket, or deletes it."""
        beat = Heartbeat(
            site=SITE,
            worker=worker,
            incarnation=self.incarnation,
            role=Role.DECODE,
            model=model,
            fingerprint="f",
            max_context_tokens=100,
            draining=draining,
        )
        headers = {"KV-Operation": "DEL"} if gone else None
        await self.client.publish(subjects.entry(subjects.workers_bucket(SITE), beat.key), encode(beat), headers=headers)

    async def go_deaf(self) -> None:
        """Listens no more to who asks whether the worker is there, as one whose process has died."""
        assert self.alive is not None
        await self.alive.unsubscribe()

    async def _announce_home(self) -> None:
        """Puts heartbeats of a prefill worker, and of the decode worker, which has room."""
        for role, worker in ((Role.PREFILL, "prefill-1"), (Role.DECODE, WORKER)):
            beat = Heartbeat(
                site=SITE, worker=worker, role=role, model="tiny", fingerprint="f", max_context_tokens=100, slots=4,
                incarnation=self.incarnation,
            )  # fmt: skip
            await self.client.publish(subjects.entry(subjects.workers_bucket(SITE), beat.key), encode(beat))

    async def _keep_announcing(self) -> None:
        """Another worker than the one that requests are placed on, so that tests may let that one come and go."""
        while True:
            if self.client.is_connected:
                await self.announce("decode-0")
                if self.announces_home:
                    await self._announce_home()
            await asyncio.sleep(0.1)

    async def stop_announcing(self) -> None:
        assert self.announcing is not None
        self.announcing.cancel()
        await asyncio.gather(self.announcing, return_exceptions=True)

    async def close(self) -> None:
        await self.stop_announcing()
        for task in self.running.values():
            task.cancel()
        results = await asyncio.gather(*self.running.values(), return_exceptions=True)
        await self.client.close()
        for result in results:
            if isinstance(result, Exception):
                raise result

    @property
    def full(self) -> bool:
        return self.slots is not None and sum(not task.done() for task in self.running.values()) >= self.slots

    async def cancellation(self) -> CancelGenerate:
        async with asyncio.timeout(DEADLINE_S):
            return await self.cancelled.get()

    async def _place(self, message: Msg) -> None:
        if not message.data:  # the bus of a real scheduler answers this too
            if self.answers_place:
                await self.client.publish(message.reply, b"", headers={ERROR_CODE: "bad_message"})
            return
        request = decode(message.data, PlaceRequest)
        self.placed.append(request)
        if self.answers_place:
            answer = self.placement_again if request.refused_by else self.placement
            await self.client.publish(message.reply, encode(FULL if self.full else answer))

    async def _tell_state(self, message: Msg) -> None:
        self.state_asked += 1
        if self.state is not None:
            await self.client.publish(message.reply, encode(self.state))

    async def _generate(self, message: Msg) -> None:
        generate = decode(message.data, Generate)
        self.generated.append(generate)
        self.headers.append(dict(message.headers or {}))
        script = self.script  # now: a test that has seen the request sets the next one's
        if not self.answers_generate:
            return
        refusal = self.refusal
        if self.full:
            refusal = GenerateRefused(request_id=generate.request_id, code=FULL.code, message=FULL.message, retry_after_s=0.1)
        accepted = GenerateAccepted(
            request_id=generate.request_id, incarnation=self.incarnation, sampling_level=self.sampling_level
        )
        await self.client.publish(message.reply, encode(refusal or accepted))
        if refusal is None:
            emitter = self.emitters[generate.request_id] = Emitter(self.client, generate)
            self.running[generate.request_id] = asyncio.create_task(script(generate, emitter))

    async def _say_running(self, message: Msg) -> None:
        if self.sends_again:
            for name, sequence in decode(message.data, AskRunning).resend.items():
                await self.emitters[name].send_again(sequence)
        events = {name: self.emitters[name].sequence for name, task in self.running.items() if not task.done()}
        await self.client.publish(message.reply, encode(Running(incarnation=self.incarnation, events=events)))

    async def _cancel(self, message: Msg) -> None:
        cancel = decode(message.data, CancelGenerate)
        if task := self.running.get(cancel.request_id):
            task.cancel()
        self.cancelled.put_nowait(cancel)
