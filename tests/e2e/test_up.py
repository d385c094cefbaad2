"""`prfaas up` as a user starts it: from the wheel alone, in an empty folder, without torch."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from prfaas.stack.free_port import free_port
from tests.source_tree import ROOT

DEADLINE_S = 100.0
HEAVY = ("torch", "transformers", "accelerate", "gguf", "safetensors", "scipy", "infra", "load", "httpx", "psutil")
BARRIER = f"""
import importlib.abc, importlib.util
class Barrier(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
import sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {HEAVY!r} else find_spec(name, package)
sys.meta_path.insert(0, Barrier())
"""


def until(what: Callable[[], bool], why: str) -> None:
    until_at = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < until_at, why
        time.sleep(0.05)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, where imports find it, and a barrier before all that the base installation lacks."""
    built, installed = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(built), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
    (found,) = built.glob("*.whl")
    with zipfile.ZipFile(found) as archive:
        archive.extractall(installed)
    (installed / "sitecustomize.py").write_text(BARRIER)
    return installed


class Up:
    """`prfaas up --emulated` in `directory`, and what it says."""

    def __init__(self, wheel: Path, directory: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._said = directory / "said"
        environ = os.environ | {"PYTHONPATH": str(wheel), "PRFAAS_CACHE_DIR": str(directory / "cache")}
        command = [sys.executable, "-m", "prfaas.cli", "up", "--emulated", "--port", str(port)]
        with self._said.open("w") as said:
            self.process = subprocess.Popen(command, cwd=directory, env=environ, stdout=said, stderr=said)

    @property
    def said(self) -> str:
        return self._said.read_text()

    def wait_ready(self) -> None:
        until(lambda: "\nReady. Ask it something" in self.said or self.process.poll() is not None, self.said)
        assert self.process.poll() is None, self.said

    def children(self) -> dict[str, int]:
        """Process ids by the end of the command line, such as `prefill-worker.toml`."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                words = (stat.parent / "cmdline").read_text().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == self.process.pid:
                found["/".join(Path(words[-2]).parts[-2:])] = int(stat.parent.name)
        return found

    def ask(self) -> str:
        body = {"model": "emulated-1t", "prompt": "abc", "max_tokens": 4, "temperature": 0}
        request = urllib.request.Request(
            f"{self.url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
            text: str = json.load(response)["choices"][0]["text"]
        return text


@pytest.fixture(scope="module")
def up(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(wheel, tmp_path_factory.mktemp("empty"), free_port())
    yield up
    up.process.kill()
    up.process.wait(DEADLINE_S)


@pytest.mark.timeout(300)
def test_a_worker_that_dies_is_started_again_and_a_killed_parent_takes_all_with_it(up: Up) -> None:
    up.wait_ready()
    answer = up.ask()
    assert len(answer) == 4
    assert "prefill-worker of remote loads emulated-1t" in up.said
    # A dead worker comes back, and so does a dead server.
    for child, name in (("remote/prefill-worker.toml", "prefill-worker of remote"), ("local/server.conf", "nats-server local")):
        os.kill(up.children()[child], signal.SIGKILL)
        until(lambda name=name: f"{name} is ready again" in up.said, up.said)  # type: ignore[misc]
        assert f"{name} was ended by SIGKILL; it is started again in 1 s" in up.said
    assert up.ask() == answer
    # A parent that is killed stops nothing itself.
    left = up.children()
    assert len(left) == 11
    up.process.kill()
    up.process.wait(DEADLINE_S)
    until(lambda: not any(Path(f"/proc/{pid}/exe").exists() and _runs(pid) for pid in left.values()), f"still there: {left}")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.timeout(300)
def test_a_closed_terminal_stops_everything_and_a_second_ctrl_c_hurries(wheel: Path, tmp_path: Path) -> None:
    up = Up(wheel, tmp_path, free_port())
    try:
        up.wait_ready()
        left = up.children()
        # A stream that would keep the gateway draining for long.
        body = {"model": "emulated-1t", "prompt": "abc", "max_tokens": 100_000, "stream": True, "ignore_eos": True}
        request = urllib.request.Request(
            f"{up.url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as stream:
            assert stream.readline()
            up.process.send_signal(signal.SIGHUP)
            until(lambda: "stopping: answers under way may finish" in up.said, up.said)
            assert up.process.poll() is None
            up.process.send_signal(signal.SIGINT)
            assert up.process.wait(DEADLINE_S) == 130
        assert "stopping at once" in up.said and "Traceback" not in up.said
        assert not any(_runs(pid) for pid in left.values())
    finally:
        up.process.kill()


@pytest.mark.timeout(120)
def test_what_cannot_be_started_is_one_sentence(wheel: Path, tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(wheel), "PRFAAS_CACHE_DIR": str(tmp_path)}

    def told(*words: str) -> str:
        command = [sys.executable, "-m", "prfaas.cli", "up", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
        assert done.returncode == 2, done
        return done.stderr

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert told("--emulated", "--port", str(port)).startswith(
            f"prfaas up: the port {port}, which gateway of local wants, is taken"
        )
    assert told("--model", "nonsense") == (
        "prfaas up: the model 'nonsense' is unknown; known are emulated-1t, emulated-dense, gemma-3-270m, smollm2-135m, "
        "directories in Hugging Face's format, and names of repositories such as `organization/model`\n"
    )
    (tmp_path / ".run").mkdir(exist_ok=True)
    with FileLock(tmp_path / ".run/up.lock"):
        assert "another `prfaas up` runs in" in told("--emulated", "--port", str(free_port()))
    assert "pip install 'prfaas[torch]'" in told("--model", "gemma-3-270m")
    assert "No such file" in told("--sites", "nowhere.toml")
