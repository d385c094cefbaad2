"""Containers that run: started from a compose file, looked into, cut off, slowed down and killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.containers.podman import ContainersError, Podman, in_namespace, run
from prfaas.site.container_files import MONITOR_PORT

_POLL_S = 0.25
_UP_DEADLINE_S = 180.0


class Containers:
    """The containers of one compose file, named as its services."""

    def __init__(self, podman: Podman, folder: Path) -> None:
        self._podman = podman
        self._folder = folder

    def up(self) -> None:
        """Starts everything. Raises ContainersError."""
        self._compose("up", "--detach", "--no-build")

    def down(self) -> None:
        """Stops and removes everything, volumes too."""
        self._compose("down", "--volumes", "--timeout", "5")

    def inspect(self, name: str) -> dict[str, Any]:
        """Returns podman's description of a container."""
        (found,) = json.loads(self.podman("inspect", self.name_of(name)))
        described: dict[str, Any] = found
        return described

    def started_at(self, name: str) -> str:
        """Returns when the container was started last, as podman writes it."""
        moment: str = self.inspect(name)["State"]["StartedAt"]
        return moment

    def streams(self, site: str) -> set[tuple[str, str]]:
        """Returns the streams of a site's server by account and name; none while it does not answer."""
        fetch = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
        url = f"http://127.0.0.1:{MONITOR_PORT}/jsz?streams=1"
        try:
            page = json.loads(self._in_network_of(f"{site}-place", sys.executable, "-c", fetch, url))
        except ContainersError:
            return set()
        accounts = page.get("account_details", [])
        return {(each["name"], stream["name"]) for each in accounts for stream in each.get("stream_detail", [])}

    def names(self) -> list[str]:
        """Returns the services of which a container runs."""
        listed = json.loads(self.podman("ps", "--format", "json"))
        return sorted(each["Labels"]["com.docker.compose.service"] for each in listed)

    def pid(self, name: str) -> int:
        """Returns the process of a container's first program, as the machine counts."""
        return int(self.inspect(name)["State"]["Pid"])

    def programs(self, name: str) -> dict[int, str]:
        """Returns the processes of a container by number, as the machine counts, with their command lines."""
        first = self.pid(name)
        group = _group_of(first)
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and _group_of(int(folder.name)) == group:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = words.decode(errors="replace").strip()
        return found

    def service_pid(self, name: str) -> int:
        """Returns the service's own process, which is not the container's first: that one is the init."""
        first = self.pid(name)
        (own,) = [pid for pid, words in self.programs(name).items() if pid != first and words]
        return own

    def addresses(self, name: str) -> dict[str, str]:
        """Returns the container's addresses by network."""
        networks = self.inspect(name)["NetworkSettings"]["Networks"]
        return {network.partition("_")[2]: each["IPAddress"] for network, each in networks.items()}

    def name_of(self, service: str) -> str:
        """Returns the name of the service's container."""
        words = ("ps", "--all", "--filter", f"label=com.docker.compose.service={service}", "--format", "{{.Names}}")
        found = self.podman(*words).split()
        if len(found) != 1:
            raise ContainersError(f"service {service} has {len(found)} containers, expected one")
        return found[0]

    def network_name(self, network: str) -> str:
        return f"prfaas_{network}"

    def execute(self, name: str, *command: str) -> str:
        """Runs a command in a container. Raises ContainersError when it fails."""
        return self.podman("exec", self.name_of(name), *command)

    def check_health(self, name: str) -> bool:
        """Runs a container's own health check once, as systemd's timers would where there are some."""
        try:
            self.podman("healthcheck", "run", self.name_of(name))
            return True
        except ContainersError:
            return False

    def log_end(self, name: str, lines: int = 15) -> str:
        command = [*in_namespace(["podman"]), "logs", "--tail", str(lines), self.name_of(name)]
        done = subprocess.run(command, env=self._podman.environ, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout + done.stderr

    def kill(self, name: str) -> None:
        """Sends SIGKILL to all processes of a container, as a crash or the out-of-memory killer would."""
        os.kill(self.pid(name), signal.SIGKILL)

    def stop(self, name: str) -> None:
        """Stops a container as an operator does: SIGTERM, and SIGKILL after its grace. It is not started again by itself."""
        self._compose("stop", name)

    def start(self, name: str) -> None:
        """Starts a container that was stopped."""
        self.podman("start", self.name_of(name))

    def take_down(self, site: str) -> None:
        """Kills all containers of a site at once, as a power cut does. None is started again by itself."""
        self.podman("stop", "--time", "0", *(self.name_of(name) for name in self.names() if name.startswith(f"{site}-")))

    def bring_back(self, site: str) -> None:
        """Starts the containers of a site that was taken down, first the one in whose network its server is."""
        self.start(f"{site}-place")
        listed = json.loads(self.podman("ps", "--all", "--format", "json"))
        names = [each["Labels"]["com.docker.compose.service"] for each in listed]
        self.podman("start", *(self.name_of(name) for name in names if name.startswith(f"{site}-")))

    def pause(self, name: str) -> None:
        """Sends SIGSTOP to the service itself: connections stay open without any answer."""
        os.kill(self.service_pid(name), signal.SIGSTOP)

    def unpause(self, name: str) -> None:
        os.kill(self.service_pid(name), signal.SIGCONT)

    def limits(self, name: str) -> dict[str, int]:
        """Returns the bounds of a container's memory and processes, read from its control groups; 0 for none."""
        found = {}
        for key, controller, file in (
            ("memory_bytes", "memory", "memory.limit_in_bytes"),
            ("pids", "pids", "pids.max"),
        ):
            value = _control_file(self.pid(name), controller, file).read_text().strip()
            found[key] = int(value) if value.isdigit() else 0
        return found

    def cut(self, name: str, network: str) -> None:
        """Takes a container's interface of a network down: packets vanish, connections are not told."""
        self._in_network_of(name, "ip", "link", "set", self._interface(name, network), "down")

    def heal(self, name: str, network: str) -> None:
        self._in_network_of(name, "ip", "link", "set", self._interface(name, network), "up")

    def shape(self, name: str, network: str, rate_mbit: int) -> None:
        """Bounds what a container sends into a network."""
        interface = self._interface(name, network)
        # A burst of 64k lets the shortest train of an idle link's probe through at once, and nothing is seen.
        rate = ("tbf", "rate", f"{rate_mbit}mbit", "burst", "8k", "latency", "50ms")
        self._in_network_of(name, "tc", "qdisc", "replace", "dev", interface, "root", *rate)

    def unshape(self, name: str, network: str) -> None:
        self._in_network_of(name, "tc", "qdisc", "del", "dev", self._interface(name, network), "root")

    def change_address(self, name: str, network: str) -> tuple[str, str]:
        """Takes a container out of a network and puts it back. Returns its addresses there before and after."""
        before = self.addresses(name)[network]
        aliases = self._aliases(name, network)
        self.podman("network", "disconnect", self.network_name(network), self.name_of(name))
        words = [word for alias in aliases for word in ("--alias", alias)]
        self.podman("network", "connect", *words, self.network_name(network), self.name_of(name))
        return before, self.addresses(name)[network]

    def open_ports(self, name: str, address: str, ports: Sequence[int]) -> list[int]:
        """Returns the ports of an address that take a connection from a container's network."""
        probe = "import socket, sys\nfor port in sys.argv[2:]:\n s = socket.socket(); s.settimeout(3)\n"
        probe += " if s.connect_ex((sys.argv[1], int(port))) == 0: print(port)\n"
        return [int(port) for port in self._in_network_of(name, sys.executable, "-c", probe, address, *map(str, ports)).split()]

    def _aliases(self, name: str, network: str) -> list[str]:
        found: list[str] = self.inspect(name)["NetworkSettings"]["Networks"][self.network_name(network)]["Aliases"]
        return found

    def _interface(self, name: str, network: str) -> str:
        """Returns the container's interface that has its address in a network."""
        address = self.addresses(name)[network]
        for line in self._in_network_of(name, "ip", "-o", "-4", "addr").splitlines():
            if f" {address}/" in line:
                return line.split()[1]
        raise ContainersError(f"no interface of {name} has the address {address}")

    def _in_network_of(self, name: str, *command: str) -> str:
        return run(["nsenter", f"--net=/proc/{self.pid(name)}/ns/net", *command])

    def podman(self, *words: str) -> str:
        """Runs podman in the containers' namespace. Raises ContainersError."""
        return run([*in_namespace(["podman"]), *words], environ=self._podman.environ)

    def _compose(self, *words: str) -> None:
        tool = str(self._podman.directory / "tools/bin/podman-compose")
        environ = {**self._podman.environ, "COMPOSE_PROFILES": _setting(self._folder / ".env", "COMPOSE_PROFILES")}
        command = [*in_namespace([tool]), "--file", str(self._folder / "compose.yaml"), *words]
        run(command, environ=environ, timeout_s=_UP_DEADLINE_S)


def wait_for(what: str, is_so: Callable[[], bool], timeout_s: float, told: Callable[[], object] = lambda: "") -> float:
    """Returns after how many seconds it is so. Raises ContainersError, which names `what` and what was `told` last."""
    started_at = time.monotonic()
    while not is_so():
        if time.monotonic() - started_at > timeout_s:
            raise ContainersError(f"{what} was not so within {timeout_s:g} s. {told()}")
        time.sleep(_POLL_S)
    return time.monotonic() - started_at


def status_of(pid: int) -> Mapping[str, str]:
    """Returns what the kernel says of a process in /proc/<pid>/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


_UNIFIED = {"memory.limit_in_bytes": "memory.max"}
"""Names of control groups' files in version 2, where they differ."""


def _control_file(pid: int, controller: str, file: str) -> Path:
    """Returns a file of a process's control group, of version 1 or 2."""
    groups = _groups_of(pid)
    if controller in groups:
        return Path("/sys/fs/cgroup", controller, groups[controller].lstrip("/"), file)
    return Path("/sys/fs/cgroup", groups[""].lstrip("/"), _UNIFIED.get(file, file))


def _groups_of(pid: int) -> dict[str, str]:
    """Returns a process's control groups by controller, version 2's by the empty name; nothing for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        _, controllers, group = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), group)
    return found


def _group_of(pid: int) -> str:
    """Returns the control group that bounds a process's memory; empty for a process that is gone."""
    groups = _groups_of(pid)
    return groups.get("memory", groups.get("", ""))


def _setting(file: Path, key: str) -> str:
    lines = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
    return lines[key]
