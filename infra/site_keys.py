"""One nkey per user. A seed lies in the directory of the site that uses it, mode 0600; servers hold public keys.

The exception is a leaf connection's seed: nats-server reads it from the dialling site's configuration only, so that file has
mode 0600 too.
"""

import os
from pathlib import Path
from typing import NamedTuple

import nkeys


class Key(NamedTuple):
    public: str
    seed_file: Path

    @property
    def seed(self) -> str:
        return self.seed_file.read_text()


class SiteKeys:
    """Keys of one site's users, under `<directory>/keys`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "keys"

    def service(self, account: str) -> Key:
        """With which the site's own processes connect to its server."""
        return ensure_key(self._directory / f"{account}.nk")

    def leaf(self, account: str, dialled: str) -> Key:
        """With which the site's server dials another site."""
        return ensure_key(self._directory / f"leaf-{account}-{dialled}.nk")


def ensure_key(seed_file: Path) -> Key:
    """The key of this file; makes one when there is none."""
    if not seed_file.exists():
        seed_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        # Created with its mode: a chmod afterwards would leave a moment in which others can read it.
        descriptor = os.open(seed_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(seed)
    pair = nkeys.from_seed(bytearray(seed_file.read_bytes()))
    return Key(pair.public_key.decode() if isinstance(pair.public_key, bytes) else pair.public_key, seed_file)
