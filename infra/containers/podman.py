"""podman with storage, networks and settings of its own, and the network namespace in which it runs containers.

Images are built in the machine's network, where the package indexes are; containers run in the namespace. Both have the same
storage.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

NAMESPACE = "prfaas-containers"
_SETTINGS = """\
[containers]
# A machine may allow fewer open files than podman's usual 1048576, and no one may raise a hard limit there.
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
# crun refuses cgroup v1 and v2 side by side, and without systemd nothing else manages groups.
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{directory}/tmp"
volume_path = "{directory}/volumes"
[network]
network_backend = "netavark"
network_config_dir = "{directory}/networks"
"""
_STORAGE = '[storage]\ndriver = "overlay"\ngraphroot = "{directory}/storage"\nrunroot = "{directory}/runroot"\n'
_OWN_FOLDERS = ("storage", "runroot", "networks", "volumes", "tmp")
_DEADLINE_S = 60.0
_REMOVAL_DEADLINE_S = 120.0
_REMOVAL_ROUNDS = 4
"""More than the depth of dependence: services on a server, the server on the container of its network."""


class ContainersError(Exception):
    """Raised when a command on containers fails; the message quotes the end of what it said."""


class Podman:
    """Owns `directory`: settings, images, volumes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ: Mapping[str, str] = os.environ | {
            "CONTAINERS_CONF": str(directory / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
        }

    def set_up(self) -> None:
        """Writes the settings and makes the namespace where it is not there. Raises ContainersError."""
        for name in ("networks", "tmp"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "containers.conf").write_text(_SETTINGS.format(directory=self.directory))
        (self.directory / "storage.conf").write_text(_STORAGE.format(directory=self.directory))
        if not Path("/run/netns", NAMESPACE).exists():
            run(["ip", "netns", "add", NAMESPACE])
            run(["ip", "-n", NAMESPACE, "link", "set", "lo", "up"])

    def __call__(self, *words: str, timeout_s: float = _DEADLINE_S) -> str:
        """Runs podman in the network of this process and returns what it prints. Raises ContainersError."""
        return run(["podman", *words], environ=self.environ, timeout_s=timeout_s)

    def remove_containers(self) -> None:
        """Removes containers, their networks and their volumes. Raises ContainersError."""
        # podman refuses to remove a container that others depend on: each round removes those that stand alone by then.
        for left in reversed(range(_REMOVAL_ROUNDS)):
            try:
                self._inside("rm", "--all", "--force", "--time", "0")
                break
            except ContainersError:
                if not left:
                    raise
        self._inside("network", "prune", "--force")
        self._inside("volume", "rm", "--all", "--force")

    def _inside(self, *words: str) -> str:
        """Runs podman in the containers' namespace and returns what it prints. Raises ContainersError."""
        return run(in_namespace(["podman", *words]), environ=self.environ, timeout_s=_REMOVAL_DEADLINE_S)

    def remove_everything(self) -> None:
        """Removes containers, images, the namespace and the folder's storage. Raises ContainersError."""
        self.remove_containers()
        run(["podman", "rmi", "--all", "--force"], environ=self.environ, timeout_s=300.0)
        # An overlay storage is a mount of its own; what is mounted cannot be removed.
        subprocess.run(["umount", str(self.directory / "storage/overlay")], capture_output=True, check=False)
        for name in _OWN_FOLDERS:
            shutil.rmtree(self.directory / name, ignore_errors=True)
        left = self.left_over()
        run(["ip", "netns", "delete", NAMESPACE])
        if left:
            raise ContainersError(f"not everything was removed: {'; '.join(left)}")

    def left_over(self) -> list[str]:
        """Returns what containers, networks and builds have left on the machine: folders, mounts, and processes."""
        found = [f"folder {name}" for name in _OWN_FOLDERS if (self.directory / name).exists()]
        mounts = (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines())
        found += [f"mount {mount}" for mount in mounts if Path(mount).is_relative_to(self.directory)]
        return found + [f"process {pid}" for pid in run(["ip", "netns", "pids", NAMESPACE]).split()]


@contextmanager
def alone() -> Iterator[None]:
    """Keeps other runs on this machine away, which would have the same namespace. Raises ContainersError while there is one."""
    with socket.socket(socket.AF_UNIX) as name:
        try:
            # An abstract address: it is gone with the process, however that ends.
            name.bind(f"\0{NAMESPACE}")
        except OSError as error:
            raise ContainersError("another run of `python -m infra.containers` is under way on this machine") from error
        yield


def in_namespace(command: Sequence[str]) -> list[str]:
    """Returns the command that runs another one in the containers' namespace.

    `ip netns exec` would mount /sys anew, on which runc then finds no control groups."""
    return ["nsenter", f"--net=/run/netns/{NAMESPACE}", *command]


def run(command: Sequence[str], *, environ: Mapping[str, str] | None = None, timeout_s: float = _DEADLINE_S) -> str:
    """Returns what the command prints. Raises ContainersError when it fails or takes longer than `timeout_s`."""
    try:
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ContainersError(f"`{' '.join(command)}` took more than {timeout_s:g} s") from error
    except OSError as error:
        raise ContainersError(f"`{command[0]}` cannot be run: {error.strerror}") from error
    if done.returncode:
        # Of a build, what a package's script said is in the one, and the step that failed in the other.
        said = "\n".join(stream.strip()[-1500:] for stream in (done.stdout, done.stderr))
        raise ContainersError(f"`{' '.join(command)}` ended with {done.returncode}: {said.strip()}")
    return done.stdout
