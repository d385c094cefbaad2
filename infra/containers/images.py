"""The images of a site, built by podman from a base that is made here of the machine's own Debian packages.

Nothing is fetched from an image registry. The base has the same packages as the published `debian:bookworm-slim`, not the same
bits: a build that is to be published passes its own, with `--build-arg BASE=...@sha256:...`.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from infra.containers.podman import ContainersError, Podman, run

ROOT = Path(__file__).parents[2]
REPOSITORY = "localhost/prfaas"
BASE = "localhost/debian:bookworm-slim"
MAX_MEGABYTES = {"control": 350, "worker": 1600}
"""Largest uncompressed size of an image, in 10^6 bytes."""
_RELEASE = "bookworm"
_UNWANTED = ("doc/*", "man/*", "locale/*", "info/*")
_CERTIFICATES = "/etc/prfaas-build/certificates.crt"
"""Place of pip's certificates while an image is built: no package owns it, and one that is installed may write its own files."""
_PIP_SETTINGS = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host", "default-timeout")
_BUILD_DEADLINE_S = 1200.0


def build(podman: Podman, targets: Sequence[str]) -> None:
    """Builds `REPOSITORY/<target>` for each target. Raises ContainersError, for an image that is too large too."""
    make_base(podman)
    podman.directory.mkdir(parents=True, exist_ok=True)
    pip = podman.directory / "pip.conf"
    settings, mounts = _pip_settings()
    pip.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    # What the machine needs to reach its package indexes is mounted while an image is built, and never copied into one.
    mounts = [f"{pip}:/etc/pip.conf:ro", *mounts]
    for target in targets:
        # OCI's own format has no health checks.
        words = ["build", "--pull=never", "--network=host", "--layers", "--format=docker", f"--target={target}"]
        words += [word for mount in mounts for word in ("--volume", mount)]
        words += [f"--tag={REPOSITORY}/{target}", f"--file={ROOT}/infra/containers/Containerfile", str(ROOT)]
        podman(*words, timeout_s=_BUILD_DEADLINE_S)
        megabytes = size_bytes(podman, target) / 1e6
        if megabytes > MAX_MEGABYTES.get(target, megabytes):
            raise ContainersError(f"image {target} has {megabytes:.0f} MB, expected at most {MAX_MEGABYTES[target]} MB")


def size_bytes(podman: Podman, target: str) -> int:
    """Returns the uncompressed size of an image with all its layers."""
    return int(podman("image", "inspect", f"{REPOSITORY}/{target}", "--format", "{{.Size}}"))


def make_base(podman: Podman) -> None:
    """Makes the base where the storage has none. Raises ContainersError."""
    try:
        podman("image", "exists", BASE)
        return
    except ContainersError:
        pass
    archive = podman.directory / "base.tar"
    if not archive.exists():
        written = archive.with_suffix(".new.tar")
        excluded = [f"--dpkgopt=path-exclude=/usr/share/{path}" for path in _UNWANTED]
        # Licences stay: an image that is passed on must carry them.
        excluded.insert(1, "--dpkgopt=path-include=/usr/share/doc/*/copyright")
        run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                "--components=main",
                *excluded,
                _RELEASE,
                str(written),
                _apt_sources(),
            ],
            timeout_s=_BUILD_DEADLINE_S,
        )
        written.replace(archive)
    podman("import", str(archive), BASE, timeout_s=300.0)


def _apt_sources() -> str:
    """Returns the machine's list of Debian's package sources. Raises ContainersError when it is no Debian."""
    for path in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"):
        if Path(path).exists():
            return path
    raise ContainersError("there is no list of Debian's package sources to make a base image from; build with BASE=... instead")


def _pip_settings() -> tuple[dict[str, str], list[str]]:
    """Returns pip's settings on this machine, and the mounts of the local folders and certificates that they name."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60
    )
    settings: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        scope, _, name = key.partition(".")
        if name in _PIP_SETTINGS and (scope == ":env:" or name not in settings):
            settings[name] = value.strip("'\"")
    words = [word.removeprefix("file://") for name, value in settings.items() if name != "cert" for word in value.split()]
    # An index in a folder has its files beside the folder of its pages.
    named = [Path(word).parent if Path(word).name == "simple" else Path(word) for word in words if word.startswith("/")]
    mounts = sorted({f"{folder}:{folder}:ro" for folder in named if folder.is_dir()})
    if cert := settings.get("cert"):
        mounts.append(f"{cert}:{_CERTIFICATES}:ro")
        settings["cert"] = _CERTIFICATES
    return settings, mounts
