"""`prfaas ask` and `prfaas chat` where something is wrong: one sentence, and exit status 1."""

import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prfaas.cli.__main__ import main
from prfaas.stack.free_port import free_port

REFUSAL = json.dumps({"error": {"message": "The API key is not known here.", "type": "authentication_error"}}).encode()
STREAM = b'data: {"choices": [{"delta": {"content": "hel"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
EVENTS = "text/event-stream; charset=utf-8"


class Scripted(http.server.BaseHTTPRequestHandler):
    """A server that answers every question as its script says."""

    status: int
    kind: str
    bodies: list[bytes]
    """One for each question; the last one for those after it too."""
    asked: list[Any]

    def do_GET(self) -> None:
        self._answer(200, "application/json", b'{"data": [{"id": "first"}, {"id": "second"}]}')

    def do_POST(self) -> None:
        self.asked.append((json.loads(self.rfile.read(int(self.headers["content-length"]))), self.headers["authorization"]))
        self._answer(self.status, self.kind, self.bodies[min(len(self.asked), len(self.bodies)) - 1])

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Scripted]]]:
    script = type("Script", (Scripted,), {"asked": [], "status": 200, "kind": EVENTS, "bodies": [STREAM + DONE]})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), script) as listening:
        serving = threading.Thread(target=listening.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}", script
        finally:
            listening.shutdown()
            serving.join()


@pytest.fixture
def page(tmp_path: Path) -> str:
    path = tmp_path / "page.txt"
    path.write_text("Some text.\n")
    return str(path)


def test_the_file_and_the_question_are_one_message(
    server: tuple[str, type[Scripted]], page: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, script = server
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert main(["ask", page, "--url", f"{url}/v1/", "--question", "Why?", "--max-tokens", "3"]) == 0
    ((body, authorization),) = script.asked
    assert body["messages"] == [{"role": "user", "content": "Some text.\n\nWhy?"}]
    assert (body["model"], body["max_tokens"], authorization) == ("first", 3, "Bearer sk-1")
    out, errors = capsys.readouterr()
    assert out == "hel\n" and errors.startswith("prefilled: the server does not say where; first token after ")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert main(["ask", page, "--url", url, "--model", "second"]) == 0
    assert script.asked[-1][0]["model"] == "second" and script.asked[-1][1] is None


@pytest.mark.parametrize(("status", "kind", "body", "message"), [
    (401, "application/json", REFUSAL, "The API key is not known here; set $OPENAI_API_KEY."),
    (502, "text/html", b"<html>", "{url} answers 502."),
    (200, "text/html", b"<html>", "{url} answers with something else than a stream of OpenAI's API."),
    (200, EVENTS, STREAM, "{url} ended the stream before the answer was over."),
    (200, EVENTS, b"data: nothing\n\n", "a part of the answer is not of OpenAI's API."),
    (200, EVENTS, b'data: {"error": {"message": "Lost."}}\n\n', "Lost."),
])  # fmt: skip
def test_a_server_that_does_not_answer_is_one_sentence(
    server: tuple[str, type[Scripted]], page: str, capsys: pytest.CaptureFixture[str], status: int, kind: str, body: bytes,
    message: str,
) -> None:  # fmt: skip
    url, script = server
    script.status, script.kind, script.bodies = status, kind, [body]
    assert main(["ask", page, "--url", url]) == 1
    assert capsys.readouterr().err == f"prfaas ask: {message.format(url=url)}\n"


@pytest.mark.parametrize(("arguments", "message"), [
    (["--url", "127.0.0.1:8000"], "--url is '127.0.0.1:8000', expected http://HOST:PORT or https://HOST."),
    (["--url", "http://127.0.0.1:99999"], "--url is 'http://127.0.0.1:99999', expected http://HOST:PORT or https://HOST."),
    (["--url", "http://127.0.0.1:{free}"], "http://127.0.0.1:{free} cannot be asked: Connection refused."),
    (["--question", "\udcff", "--model", "m"], "the message has bytes that are no text in UTF-8."),
])  # fmt: skip
def test_a_wrong_address_is_one_sentence(
    arguments: list[str], message: str, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    free = str(free_port())
    assert main(["ask", page, *(each.replace("{free}", free) for each in arguments)]) == 1
    assert capsys.readouterr().err == f"prfaas ask: {message.replace('{free}', free)}\n"


def test_a_file_that_is_none_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"ab\xff")
    assert main(["ask", str(binary)]) == 1
    assert capsys.readouterr().err == f"prfaas ask: {binary} is no text in UTF-8: byte 0xff at 2.\n"
    assert main(["ask", str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err == f"prfaas ask: {tmp_path / 'absent'} cannot be read: No such file or directory.\n"


class Typed(io.StringIO):
    """A terminal in which a user has typed all lines already."""

    def isatty(self) -> bool:
        return True


def test_a_chat_by_hand_goes_on_without_the_message_that_failed(
    server: tuple[str, type[Scripted]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, script = server
    script.bodies = [STREAM + DONE, b"data: nothing\n\n", STREAM + DONE]
    monkeypatch.setattr("sys.stdin", Typed("one\ntwo\n\nthree\n"))
    assert main(["chat", "--url", url, "--system", "Be short."]) == 0
    told = [[message["content"] for message in body["messages"]] for body, _ in script.asked]
    assert told == [["Be short.", "one"], ["Be short.", "one", "hel", "two"], ["Be short.", "one", "hel", "three"]]
    out, errors = capsys.readouterr()
    assert out.count("hel\n") == 2 and errors.count("prefilled: ") == 2
    assert errors.count("prfaas chat: a part of the answer is not of OpenAI's API.\n") == 1


def test_a_chat_from_a_pipe_ends_with_the_message_that_failed(
    server: tuple[str, type[Scripted]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, script = server
    script.bodies = [b"data: nothing\n\n"]
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    assert main(["chat", "--url", url]) == 1
    assert len(script.asked) == 1 and capsys.readouterr().out == ""
