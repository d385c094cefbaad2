"""Questions to a gateway from a terminal: its address and key, and one answer after another."""

import argparse
import contextlib
import http.client
import json
import os
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, Final, ParamSpec, TypeVar

import msgspec

from prfaas.console.answer import Answer, AnswerError, ErrorAnswer, sentence, shown

KEY_VARIABLE: Final = "OPENAI_API_KEY"
SILENCE_S: Final = 630.0
"""Silence after which a server counts as lost: a gateway's own deadlines are ten minutes at most, and it tells when they pass."""
CONNECT_S: Final = 10.0
MAX_LINE_BYTES: Final = 4 << 20
MAX_BODY_BYTES: Final = 16 << 20

Messages = list[dict[str, str]]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def add_gateway_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the gateway; default: %(default)s")
    parser.add_argument("--model", help="default: the first one that the gateway serves")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer; default: the gateway's")


class Asker:
    """Asks one gateway. Everything is told in AnswerError, a sentence."""

    def __init__(self, url: str, model: str | None, max_tokens: int | None) -> None:
        """Raises AnswerError for what is no address."""
        self._url = url.rstrip("/").removesuffix("/v1")
        parts = urllib.parse.urlsplit(self._url)
        try:
            self._port = parts.port
        except ValueError:
            self._port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or self._port == -1:
            raise AnswerError(f"--url is {url!r}, expected http://HOST:PORT or https://HOST")
        self._secure, self._host, self._path = parts.scheme == "https", parts.hostname, parts.path
        self._max_tokens = max_tokens
        key = os.environ.get(KEY_VARIABLE, "")
        if not (key.isascii() and (key.isprintable() or not key)):
            raise AnswerError(f"${KEY_VARIABLE} is no key: it has other characters than printable ASCII")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._model = model

    def answer(self, messages: Messages) -> str:
        """Prints the answer as it comes, and the line about it to stderr. Returns the answer. Raises AnswerError."""
        body: dict[str, Any] = {
            "model": self._model or self._first_model(),
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._max_tokens is not None:
            body["max_tokens"] = self._max_tokens
        try:
            data = msgspec.json.encode(body)
        except UnicodeEncodeError as error:
            raise AnswerError("the message has bytes that are no text in UTF-8") from error
        answer = Answer()
        asked_at = time.monotonic()
        ttft_s: float | None = None
        with contextlib.closing(self._connection()) as connection:
            try:
                for line in self._lines(connection, data):
                    text = answer.take(line)
                    if text and ttft_s is None:
                        ttft_s = time.monotonic() - asked_at
                    print(shown(text), end="", flush=True)
                    if answer.complete:
                        break
            finally:
                if answer.text and not answer.text.endswith("\n"):
                    print(flush=True)
        if not answer.complete:
            raise AnswerError(f"{self._url} ended the stream before the answer was over")
        print(answer.last_line(ttft_s), file=sys.stderr, flush=True)
        return answer.text

    def _first_model(self) -> str:
        """Raises AnswerError."""
        with contextlib.closing(self._connection()) as connection:
            response = self._sent(connection, "GET", "/v1/models", None)
            data = self._told(response.read, MAX_BODY_BYTES)
        try:
            self._model = str(json.loads(data)["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise AnswerError(f"{self._url} names no model at /v1/models") from error
        return self._model

    def _lines(self, connection: http.client.HTTPConnection, body: bytes) -> Iterator[bytes]:
        response = self._sent(connection, "POST", "/v1/chat/completions", body)
        if not (response.headers.get("content-type") or "").startswith("text/event-stream"):
            raise AnswerError(f"{self._url} answers with something else than a stream of OpenAI's API")
        while line := self._told(response.readline, MAX_LINE_BYTES):
            yield line

    def _sent(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> http.client.HTTPResponse:
        """Returns the answer once its status has come. Raises AnswerError for one that is not 200."""
        headers = {**self._headers, "content-type": "application/json", "x-prfaas-report": "1"}
        self._told(connection.connect)
        assert connection.sock is not None
        connection.sock.settimeout(SILENCE_S)
        self._told(self._send, connection, method, self._path + path, body, headers)
        response = self._told(connection.getresponse)
        if response.status != 200:
            raise AnswerError(self._refusal(response.status, self._told(response.read, MAX_BODY_BYTES)))
        return response

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> None:
        # A server that refuses a body may stop reading it: then its answer says why.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, headers)

    def _refusal(self, status: int, body: bytes) -> str:
        """Returns the server's own words; anything may stand at the address: then the status alone."""
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            said = sentence(msgspec.json.decode(body, type=ErrorAnswer).error.message)
            return f"{said}; set ${KEY_VARIABLE}" if status == 401 else said
        return f"{self._url} answers {status}"

    def _told(self, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        """Returns the result of work on the connection. Raises AnswerError where that fails."""
        try:
            return work(*arguments, **named)
        except TimeoutError as error:
            raise AnswerError(f"{self._url} says nothing for too long") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            raise AnswerError(f"{self._url} cannot be asked: {sentence(said)}") from error

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=CONNECT_S)


def told_errors(command: str, error: AnswerError) -> int:
    """Prints an error as one sentence. Returns the exit status."""
    print(f"prfaas {command}: {error}.", file=sys.stderr)
    return 1
