"""An operator's path: two hosts, each in a network namespace of its own, from `prfaas site init` to rotated keys.

Processes are started by the commands of their systemd units, without systemd. One pair of addresses joins the namespaces.
"""

import configparser
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prfaas.cli.__main__ import main
from prfaas.process.child import end_with_parent
from prfaas.site.site_keys import ensure_key
from tests.machine import need_network_namespaces
from tests.source_tree import ROOT

EXAMPLE = (ROOT / "examples/two_hosts.toml").read_text()
ADDRESSES = {"home": "198.51.100.1", "far": "198.51.100.2"}
DEADLINE_S = 120.0
ENGINE = """
[services.config.engine]
engine = "emulated"
emulated = { time-scale = 8.0, byte-scale = 2000.0, token-scale = 32.0 }
chunk-tokens = 256
"""
ASKING = """
import json, sys, time, urllib.request
for number in range(100_000):
    body = {"model": "emulated-1t", "prompt": [(index * (number + 3)) % 251 for index in range(1200)], "max_tokens": 4}
    request = urllib.request.Request("http://127.0.0.1:8000/v1/completions", json.dumps(body).encode(),
        {"content-type": "application/json", "x-prfaas-ttft-deadline-s": "60"})
    try:
        with urllib.request.urlopen(request, timeout=100) as answer:
            said = [answer.status, answer.headers["x-prfaas-outcome"], json.load(answer)["choices"][0]["text"]]
    except Exception as error:
        said = [0, repr(error), ""]
    print(json.dumps(said), flush=True)
    time.sleep(0.2)
"""


def until(what: Callable[[], bool], why: Callable[[], str]) -> None:
    until_at = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < until_at, why()
        time.sleep(0.1)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Host:
    """One network namespace, and the processes in it."""

    def __init__(self, site: str, folder: Path) -> None:
        self.site = site
        self.folder = folder
        self.namespace = f"prfaas-{site}-{os.getpid()}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *words]

    def start_units(self) -> None:
        """Runs what each unit of the site would."""
        for path in sorted((self.folder / "systemd").glob("*.service")):
            unit = configparser.RawConfigParser(strict=False, delimiters=("=",))
            unit.read_string(path.read_text())
            words = shlex.split(unit["Service"]["ExecStart"])
            if words[0].endswith(tuple(f"prfaas-{role}" for role in ("gateway", "scheduler", "worker", "probe"))):
                module = Path(words[0]).name.replace("-", "_")
                words = [sys.executable, "-m", module, *words[1:]]  # the tree's own code, whatever is installed
            log = (self.folder / f"{path.stem}.log").open("ab")
            with log:
                self.processes[path.stem] = subprocess.Popen(
                    self.command(*words), stdout=log, stderr=log, preexec_fn=end_with_parent()
                )

    def reload_server(self) -> None:
        self.processes[f"prfaas-nats-{self.site}"].send_signal(signal.SIGHUP)

    def get(self, port: int, path: str) -> str:
        """Fetches a page from inside; empty while nothing answers."""
        done = subprocess.run(
            self.command("curl", "-s", f"http://127.0.0.1:{port}{path}"), capture_output=True, text=True, check=False
        )
        return done.stdout

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(DEADLINE_S)


@contextlib.contextmanager
def joined(hosts: dict[str, Host]) -> Iterator[None]:
    """Makes the namespaces and one wire between them."""
    made: list[str] = []
    try:
        for host in hosts.values():
            ip("netns", "add", host.namespace)
            made.append(host.namespace)
            ip("-n", host.namespace, "link", "set", "lo", "up")
        ends = {site: f"prfaas-{site}" for site in hosts}
        first, second = hosts.values()
        ip("-n", first.namespace, "link", "add", ends[first.site], "type", "veth", "peer", "name", ends[second.site],
           "netns", second.namespace)  # fmt: skip
        for site, host in hosts.items():
            ip("-n", host.namespace, "addr", "add", f"{ADDRESSES[site]}/24", "dev", ends[site])
            ip("-n", host.namespace, "link", "set", ends[site], "up")
        yield
    finally:
        for namespace in made:
            ip("netns", "delete", namespace)


class Operator:
    """The description, the folder in which all keys are made, and the hosts to which the sites' folders are copied."""

    def __init__(self, directory: Path) -> None:
        self.made = directory / "made"
        self.at = directory / "etc-prfaas"
        self.sites = directory / "sites.toml"
        text = EXAMPLE
        for site, address in ADDRESSES.items():
            text = text.replace(f"{site}.example.org", address).replace(
                f"/var/lib/prfaas/{site}", str(directory / f"store-{site}")
            )
        text = text.replace('model = "gemma-3-270m"', 'model = "emulated-1t"')
        text = text.replace('role = "scheduler"', 'role = "scheduler"\n[services.config]\npolicy = "remote_all"', 1)
        for role in ("prefill-worker", "decode-worker"):
            text = "".join(f"{part}{ENGINE}" if f'role = "{role}"' in part else part for part in _tables(text))
        self.sites.write_text(text)
        self.hosts = {site: Host(site, self.at / site) for site in ADDRESSES}

    def site(self, *words: str) -> None:
        given = ["--sites", str(self.sites), "--directory", str(self.made), "--at", str(self.at)]
        assert main(["site", *words, *given]) == 0

    def copy(self) -> None:
        """Copies each site's folder to its host, as `rsync` would: files one by one, each replaced in one step."""
        for site in ADDRESSES:
            for source in (path for path in (self.made / site).rglob("*") if path.is_file()):
                target = self.at / site / source.relative_to(self.made / site)
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.copy2(source, target.with_suffix(".copied"))
                target.with_suffix(".copied").replace(target)

    def take_over(self) -> None:
        self.copy()
        for host in self.hosts.values():
            host.reload_server()

    def keys(self) -> set[str]:
        return {ensure_key(file).public for site in ADDRESSES for file in (self.made / site / "keys").glob("*.nk")}


def _tables(text: str) -> list[str]:
    first, *tables = text.split("[[")
    return [first, *(f"[[{table}" for table in tables)]


@pytest.mark.timeout(600)
def test_two_hosts_serve_over_tls_and_rotated_keys_cost_no_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need_network_namespaces()
    operator = Operator(tmp_path)
    operator.site("init")
    home, far = operator.hosts["home"], operator.hosts["far"]

    def why() -> str:
        return home.logs() + far.logs()

    with joined(operator.hosts), contextlib.ExitStack() as stopping:
        operator.copy()
        for host in operator.hosts.values():
            stopping.callback(host.stop)
            host.start_units()
        until(lambda: "ready" in home.get(8000, "/ready") and "not ready" not in home.get(8000, "/ready"), why)
        answers = tmp_path / "answers"
        with answers.open("wb") as file:
            asking = subprocess.Popen(home.command(sys.executable, "-c", ASKING), stdout=file, preexec_fn=end_with_parent())
        stopping.callback(asking.wait)
        stopping.callback(asking.kill)

        def told() -> list[list[object]]:
            return [json.loads(line) for line in answers.read_text().splitlines()]

        def offloaded_after(count: int) -> bool:
            return "offloaded" in [outcome for _, outcome, _ in told()[count:]]

        # A request is offloaded, through a leaf connection with TLS.
        until(lambda: offloaded_after(0), why)
        leafs = json.loads(home.get(8222, "/leafz"))["leafs"]
        assert {leaf["ip"] for leaf in leafs} == {ADDRESSES["far"]} and len(leafs) == 2
        assert "tls {" in (home.folder / "server.conf").read_text()

        # All users' keys are replaced while requests go on.
        old = operator.keys()
        for step in ("add", "use"):
            operator.site("rotate", step)
            operator.take_over()

        def still_used() -> set[str]:
            pages = [host.get(8222, "/connz?auth=1") for host in operator.hosts.values()]
            connections = [each for page in pages for each in json.loads(page)["connections"]]
            return {each.get("nkey", each.get("authorized_user", "")) for each in connections} & old

        until(lambda: not still_used(), lambda: f"still used: {still_used()}\n{why()}")
        operator.site("rotate", "drop")
        for name in old:
            assert name not in (operator.made / "home/server.conf").read_text()
        operator.take_over()
        count = len(told())
        until(lambda: len(told()) > count + 4 and offloaded_after(count), why)
        assert [said for said in told() if said[0] != 200] == []
        assert [
            name for host in operator.hosts.values() for name, each in host.processes.items() if each.poll() is not None
        ] == []
    capsys.readouterr()
