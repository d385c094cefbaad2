"""A process beside the gateway that reads large requests: JSON, chat template and tokenizer.

Decoding JSON, freeing its objects and handing out token ids hold the interpreter's lock for as long as they take, in whatever
thread they run. In a process of its own that work stops no stream, and small requests never wait behind it.
"""

import asyncio
import contextlib
import os
import pickle
import signal
import struct
import sys
from collections.abc import Sequence
from typing import BinaryIO, Final, NamedTuple

import msgspec

from prfaas.engine.model_directory import ModelFiles
from prfaas.engine.tokenizer_file import load_tokenizer
from prfaas.telemetry.logs import get_logger
from prfaas_gateway.dialects import DIALECTS, TOKENIZING_PARSERS
from prfaas_gateway.openai.errors import ApiError, internal
from prfaas_gateway.openai.types import ChatRequest, CompletionRequest
from prfaas_gateway.openai.unknown_fields import UnknownFields
from prfaas_gateway.prompts import Prompts
from prfaas_gateway.tokenizing import chosen_model, encoded_answer
from prfaas_gateway.turns import Turns

LARGE_BODY_BYTES: Final = 64 * 1024
"""Larger bodies are read in the process. Smaller ones cost the event loop a few milliseconds at most."""
WARM_UP_AFTER_S: Final = 5.0
"""The gateway's own start comes first; a large request that comes sooner starts the process itself."""
_NICENESS: Final = 5
_PROGRAM: Final = f"from {__name__} import main; main()"
"""Not `-m`: its classes would be those of `__main__`, and others than the ones that arrive."""
_SIZE: Final = struct.Struct("<Q")

log = get_logger(__name__)

NamedFiles = tuple[tuple[str, ...], ModelFiles]
"""Names by which clients know a model, and its files."""


class LargeRequest(NamedTuple):
    endpoint: str
    """A key of DIALECTS or TOKENIZING_PARSERS."""
    body: bytes
    ignores_unknown: bool


class ReadRequest(NamedTuple):
    request: ChatRequest | CompletionRequest
    """The request with empty prompts, as many as it had: `prompts` replace them."""
    prompts: list[list[int]]
    """Token ids."""
    unknown: UnknownFields | None
    """Fields that were left out."""


class Tokenized(NamedTuple):
    body: bytes
    """The answer's."""
    unknown: UnknownFields | None


LargeAnswer = ReadRequest | Tokenized | ApiError


class LargeRequestReader:
    """The gateway's end of the process. It starts the process when one is needed and none runs. Tenants take turns."""

    def __init__(self, models: Sequence[NamedFiles]) -> None:
        self._models = list(models)
        self._turns = Turns()
        self._process: asyncio.subprocess.Process | None = None
        self._exchanges: set[asyncio.Task[LargeAnswer]] = set()

    async def warm_up(self) -> None:
        """Starts the process unless it runs already."""
        await asyncio.sleep(WARM_UP_AFTER_S)
        with self._turns.joined("") as turn:
            await turn.granted.wait()
            await self._running()

    async def read(self, large: LargeRequest, tenant: str) -> ReadRequest:
        """Reads a request of an endpoint that generates. Raises ApiError."""
        answer = await self._asked(large, tenant)
        assert isinstance(answer, ReadRequest)
        return answer

    async def tokenized(self, large: LargeRequest, tenant: str) -> Tokenized:
        """Answers a request of `/tokenize` or `/detokenize`. Raises ApiError."""
        answer = await self._asked(large, tenant)
        assert isinstance(answer, Tokenized)
        return answer

    async def _asked(self, large: LargeRequest, tenant: str) -> ReadRequest | Tokenized:
        """Raises ApiError. Cancelled, it still lets the process finish what it has begun before the next request's turn."""
        turn = self._turns.join(tenant)
        try:
            await turn.granted.wait()
        except asyncio.CancelledError:
            self._turns.leave(turn)
            raise
        exchange = asyncio.get_running_loop().create_task(self._exchange(large))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanges.discard)
        exchange.add_done_callback(lambda _: self._turns.leave(turn))
        answer = await asyncio.shield(exchange)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def close(self) -> None:
        for exchange in self._exchanges:
            exchange.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)
        await self._kill()

    async def _exchange(self, large: LargeRequest) -> LargeAnswer:
        """Returns an ApiError also when the process dies on this request: the next one gets a new process."""
        try:
            process = await self._running()
            assert process.stdin is not None and process.stdout is not None
            await _send(process.stdin, large)
            (size,) = _SIZE.unpack(await process.stdout.readexactly(_SIZE.size))
            answer: LargeAnswer = pickle.loads(await process.stdout.readexactly(size))
            return answer
        except (OSError, EOFError, pickle.UnpicklingError) as error:  # IncompleteReadError is an EOFError
            log.error("large_request_process_died", body_bytes=len(large.body), error=repr(error))
            await self._kill()
            return internal("The gateway's process for large requests died on this one.")
        except asyncio.CancelledError:
            await self._kill()  # else its answer would be taken for the next request's
            raise

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", _PROGRAM, stdin=pipe, stdout=pipe)
            self._process = process
            assert process.stdin is not None
            await _send(process.stdin, self._models)
        return self._process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def _send(pipe: asyncio.StreamWriter, value: object) -> None:
    data = pickle.dumps(value)
    pipe.write(_SIZE.pack(len(data)))
    pipe.write(data)
    await pipe.drain()


class LargeRequests:
    """The work of the process: reads one request after another."""

    def __init__(self, models: Sequence[NamedFiles]) -> None:
        self._models: dict[str, tuple[Prompts, int]] = {}
        for names, files in models:
            prompts = Prompts(
                load_tokenizer(files),
                files.chat_template,
                context_tokens=files.max_context_tokens,
                special_tokens=files.special_tokens,
                vocabulary_tokens=files.vocabulary_tokens,
            )
            self._models |= dict.fromkeys(names, (prompts, files.max_context_tokens))

    def read(self, large: LargeRequest) -> LargeAnswer:
        """Never raises: an error is the answer to its request, and the process goes on."""
        try:
            unknown = UnknownFields() if large.ignores_unknown else None
            if large.endpoint in TOKENIZING_PARSERS:
                asked = TOKENIZING_PARSERS[large.endpoint](large.body, unknown)
                return Tokenized(encoded_answer(asked, *chosen_model(asked.model, self._models)), unknown)
            request = DIALECTS[large.endpoint].parse(large.body, unknown)
            prompts, _ = chosen_model(request.model, self._models)
            return ReadRequest(_without_prompt(request), prompts.of_request(request), unknown)
        except ApiError as error:
            return error
        except Exception as error:
            log.exception("large_request_failed", body_bytes=len(large.body), error=repr(error))
            return internal("The gateway failed on this request; its log says why.")


def _without_prompt(request: ChatRequest | CompletionRequest) -> ChatRequest | CompletionRequest:
    if isinstance(request, ChatRequest):
        return msgspec.structs.replace(request, messages=[])
    return msgspec.structs.replace(request, prompt=[""] * len(request.prompts))


def serve(asked: BinaryIO, answers: BinaryIO) -> None:
    """Answers one request after another until the gateway closes its end, or is gone."""
    requests: LargeRequests | None = None
    while len(head := asked.read(_SIZE.size)) == _SIZE.size:
        message = pickle.loads(asked.read(_SIZE.unpack(head)[0]))
        if requests is None:
            requests = LargeRequests(message)
            continue
        data = pickle.dumps(requests.read(message))
        answers.write(_SIZE.pack(len(data)))
        answers.write(data)
        answers.flush()


def main() -> None:
    os.nice(_NICENESS)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not print among the answers
    # Ctrl-C reaches the whole group; the gateway drains, and ends this process by closing its pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, answers)
