"""Sites in containers, tested: `python -m infra.containers test | images | sbom | remove`.

`test` installs its tools (Debian packages as root, the rest into a venv), builds the images, runs tests/containers/live in a
network namespace of its own, and removes everything but the tools and the base; what cannot be removed is a failure. `sbom`
writes what is in each image, and removes the images. On a machine that cannot run containers it says why and ends with 0; with
CI=true in the environment that is a failure.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from infra import debian
from infra.containers import images, tools
from infra.containers.podman import ContainersError, Podman, alone, in_namespace, run
from prfaas.process import interruption

FOLDER = images.ROOT / ".run/containers"
TESTED = ("nats", "control", "lab")
TARGETS = (*TESTED, "worker", "weights")
_TESTS = "tests/containers/live"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.containers", description=__doc__)
    parser.add_argument("action", choices=["test", "images", "sbom", "remove"])
    parser.add_argument("--keep", action="store_true", help="leave containers, images and the namespace for another run")
    arguments = parser.parse_args()
    if (missing := _missing()) is not None:
        print(f"infra.containers: nothing was done: {missing}", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    # What is made here is removed also when this process is told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    podman = Podman(FOLDER)
    try:
        with alone():
            match arguments.action:
                case "test":
                    return _test(podman, keep=arguments.keep)
                case "images":
                    _set_up(podman)
                    _build(podman, TARGETS)
                case "sbom":
                    _list_contents(podman, keep=arguments.keep)
                case _:
                    podman.set_up()
                    podman.remove_everything()
    except (ContainersError, tools.ToolError, debian.PackageError) as error:
        print(f"infra.containers: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _set_up_for_a_while(podman: Podman, *, keep: bool) -> Iterator[None]:
    """Installs tools and makes the namespace, and removes everything but the tools and the base afterwards."""
    _set_up(podman)
    try:
        # Of a run that was killed.
        podman.remove_containers()
        yield
    finally:
        if not keep:
            podman.remove_everything()
            _say("removed containers, images and the namespace")


def _test(podman: Podman, *, keep: bool) -> int:
    with _set_up_for_a_while(podman, keep=keep):
        _build(podman, TESTED)
        options = ("-q", "-s", "-m", "containers", "-p", "no:cacheprovider", "--durations=0")
        command = [sys.executable, "-m", "pytest", *options, _TESTS]
        return subprocess.run(in_namespace(command), cwd=images.ROOT, check=False).returncode


def _list_contents(podman: Podman, *, keep: bool) -> None:
    with _set_up_for_a_while(podman, keep=keep):
        _build(podman, TARGETS)
        _write_sboms(podman)


def _set_up(podman: Podman) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    tools.install(FOLDER)
    podman.set_up()
    _say("tools are installed")


def _build(podman: Podman, targets: Sequence[str]) -> None:
    images.make_base(podman)
    _say("base is made")
    for target in targets:
        images.build(podman, [target])
        _say(f"image {target} is built: {images.size_bytes(podman, target) / 1e6:.0f} MB")


def _write_sboms(podman: Podman) -> None:
    """Writes a list of everything in each image, in CycloneDX's format."""
    for target in TARGETS:
        archive, listed = FOLDER / f"{target}.oci.tar", FOLDER / f"{target}.cdx.json"
        archive.unlink(missing_ok=True)
        podman("save", "--format=oci-archive", f"--output={archive}", f"{images.REPOSITORY}/{target}", timeout_s=300.0)
        syft = [str(FOLDER / "tools/bin/syft"), f"oci-archive:{archive}", "--output", f"cyclonedx-json={listed}", "--quiet"]
        run(syft, environ=os.environ | {"SYFT_CHECK_FOR_APP_UPDATE": "false"}, timeout_s=600.0)
        archive.unlink()
        _say(f"wrote {listed}")


def _missing() -> str | None:
    """Returns why this machine cannot run containers; None when it can."""
    if sys.platform != "linux":
        return f"containers need Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "containers need root here, for networks and control groups"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        return "this machine gives no network namespaces"
    if not Path("/sys/fs/cgroup").is_dir():
        return "this machine has no control groups"
    return None


_started_at = time.monotonic()


def _say(line: str) -> None:
    print(f"{time.monotonic() - _started_at:6.1f} s  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
