"""Sealing keys of sites: a private file in each site's folder, and the public keys of its peers beside it.

A site's workers share one private file. Public files are what the sites' operators exchange; they are no secrets, but who can
write them can read what is sealed.
"""

import base64
import secrets
from collections.abc import Iterable
from pathlib import Path

from prfaas.sealing.keys import KEY_BYTES, PrivateKey, read_keys
from prfaas.secrets.secret_files import make_private_directory, replace_secret


class SealingKeys:
    """Sealing keys of one site, under `<directory>/keys`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "keys"
        self.private_file = self._directory / "sealing.key"

    def peer_file(self, peer: str) -> Path:
        """Returns the file with the public keys of another site."""
        return self._directory / f"sealing-{peer}.pub"

    def write_hash_key(self, content: bytes) -> Path:
        """Writes the deployment's key of block hashes. Returns the file."""
        make_private_directory(self._directory)
        path = self._directory / "block-hashes.key"
        replace_secret(path, content)
        return path

    def ensure(self) -> list[PrivateKey]:
        """Returns the site's keys, newest first; makes one when there is none."""
        if not self.private_file.exists():
            self.write([PrivateKey.generate()])
        return read_keys(self.private_file, PrivateKey.parse)

    def write(self, keys: Iterable[PrivateKey]) -> None:
        make_private_directory(self._directory)
        replace_secret(self.private_file, _lines(key.line for key in keys))

    def write_peer(self, peer: str, keys: Iterable[PrivateKey]) -> None:
        """Writes the public keys of another site."""
        make_private_directory(self._directory)
        replace_secret(self.peer_file(peer), _lines(key.public.line for key in keys))


def ensure_hash_key(path: Path) -> bytes:
    """Returns the content of a file with a deployment's key of block hashes; makes one when there is none."""
    if not path.exists():
        make_private_directory(path.parent)
        replace_secret(path, _lines([base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()]))
    return path.read_bytes()


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
