"""The answer of an OpenAI-compatible server as server-sent events: pure, bytes and moments come in."""

from typing import Annotated

import msgspec

from prfaas.replay.record import Record

MAX_EVENT_BYTES = 16 << 20
"""Longest event that is read; a token with its log-probabilities is some kilobytes."""
MAX_CODE_CHARACTERS = 64
MAX_MESSAGE_CHARACTERS = 500
_EVENT_END = b"\n\n"


class AnswerError(Exception):
    """An answer that is none: the server's error, or a stream without its end."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def text(self) -> str | None:
        return self.content or self.reasoning_content or self.reasoning


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


_Tokens = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class _PromptDetails(msgspec.Struct):
    cached_tokens: _Tokens | None = None


class _Usage(msgspec.Struct):
    completion_tokens: _Tokens | None = None
    prompt_tokens: _Tokens | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Error(msgspec.Struct):
    message: str = ""
    code: str | int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | str | None = None


_chunks = msgspec.json.Decoder(_Chunk)


class Answer:
    """One streamed answer; writes what it says into a record."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._pending = b""
        self._events = 0
        self._finished = False
        self._pieces: list[str] = []

    def receive(self, data: bytes, now_s: float) -> None:
        """Raises AnswerError for the server's error and an endless event, msgspec.DecodeError for what is no JSON."""
        self._pending += data
        if b"\r" in self._pending:
            self._pending = self._pending.replace(b"\r\n", b"\n")
        *whole, self._pending = self._pending.split(_EVENT_END)
        for event in whole:
            self._event(event, now_s)
        if len(self._pending) > MAX_EVENT_BYTES:
            raise AnswerError("protocol", f"an event of the stream has more than {MAX_EVENT_BYTES >> 20} MiB")

    def end(self) -> None:
        """Says that no more comes. Raises AnswerError when the answer is not complete."""
        self._record.text = "".join(self._pieces)
        if not self._events:
            raise AnswerError("protocol", f"the answer is no stream of events: {printable(_text_of(self._pending[:200]), 200)}")
        if not self._finished:
            raise AnswerError("cut_off", "the stream ended without a finish reason")

    def _event(self, event: bytes, now_s: float) -> None:
        for line in event.split(b"\n"):
            if line.startswith(b"data:"):
                self._events += 1
                payload = line[5:].strip()
                if payload != b"[DONE]":
                    self._chunk(_chunks.decode(payload), now_s)

    def _chunk(self, chunk: _Chunk, now_s: float) -> None:
        if chunk.error is not None:
            raise _error(chunk.error, "stream_error")
        for choice in chunk.choices:
            if text := choice.text or (choice.delta and choice.delta.text):
                self._text(text, now_s)
            self._finished = self._finished or choice.finish_reason is not None
        if chunk.usage is not None:
            self._usage(chunk.usage)

    def _usage(self, usage: _Usage) -> None:
        record = self._record
        # A server that leaves a count out is not believed to have counted none.
        if usage.completion_tokens is not None:
            record.tokens = usage.completion_tokens
        if usage.prompt_tokens is not None:
            record.prompt_tokens = usage.prompt_tokens
        details = usage.prompt_tokens_details
        record.cached_tokens = min((details.cached_tokens or 0) if details else 0, record.prompt_tokens)

    def _text(self, text: str, now_s: float) -> None:
        record = self._record
        if record.last_s is None:
            record.first_s = now_s
        else:
            record.gaps_s.append(now_s - record.last_s)
        record.last_s = now_s
        # A server that does not count is believed to send a token with each piece.
        record.tokens += 1
        self._pieces.append(text)


def error_of(status: int, body: bytes) -> AnswerError:
    """Returns the error of an answer that is not a stream."""
    try:
        error = _chunks.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = None
    return _error(error or _Error(message=_text_of(body[:200])), f"http_{status}")


def printable(text: str, most: int) -> str:
    """Returns a server's text as it may stand in a terminal and a table: on one line, without control characters, and short."""
    if not text.isprintable():
        text = "".join(each if each.isprintable() else " " for each in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _error(error: _Error | str, default: str) -> AnswerError:
    if isinstance(error, str):
        return AnswerError(default, printable(error, MAX_MESSAGE_CHARACTERS))
    code = printable(str(error.code or default), MAX_CODE_CHARACTERS)
    return AnswerError(code, printable(error.message, MAX_MESSAGE_CHARACTERS))


def _text_of(content: bytes) -> str:
    return content.decode("utf-8", "replace")
