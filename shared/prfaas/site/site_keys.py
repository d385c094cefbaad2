"""One nkey per user. A seed lies in the directory of the site that uses it, mode 0600; servers hold public keys.

The exception is a leaf connection's seed: nats-server reads it from the dialling site's configuration only, so that file has
mode 0600 too.
"""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nkeys

from prfaas.secrets.secret_files import make_private_directory, write_secret
from prfaas.site.certificates import Authority, Certificate


class Key(NamedTuple):
    """A user's public key, and where its seed lies."""

    public: str
    seed_file: Path

    @property
    def seed(self) -> str:
        return self.seed_file.read_text()


class SiteKeys:
    """Keys of one site's users and its server's certificate, under `<directory>/keys`."""

    def __init__(self, directory: Path, authority: Authority, hosts: Sequence[str]) -> None:
        """Takes as `hosts` the names and addresses under which clients and other sites reach the site's server."""
        self._directory = directory / "keys"
        self._authority = authority
        self._hosts = tuple(hosts)

    def operator(self, account: str) -> Key:
        """Key of the user that may do anything in one account: for operators and tests, no service has it."""
        return ensure_key(self._directory / f"{account}.nk")

    def service(self, name: str, account: str) -> Key:
        """Key with which the service `name` connects to its site's server."""
        return ensure_key(self._directory / f"{name}.{account}.nk")

    def leaf(self, account: str, dialled: str) -> Key:
        """Key with which the site's server dials another site."""
        return ensure_key(self._directory / f"leaf-{account}-{dialled}.nk")

    def cluster_secret(self) -> str:
        """Returns the password by which the servers of the site's cluster know one another; makes one when there is none."""
        file = self._directory / "cluster.secret"
        if not file.exists():
            make_private_directory(file.parent)
            write_secret(file, secrets.token_hex(32).encode())
        return file.read_text()

    def seed_files(self) -> list[Path]:
        """Returns the files of the site's users that are in use."""
        spare = (".next.nk", ".old.nk")
        return sorted(file for file in self._directory.glob("*.nk") if not file.name.endswith(spare))

    def renew_certificate(self) -> Certificate:
        """Signs a new key and certificate of the site's server, which takes them with its next reload. Raises AuthorityError."""
        self._authority.sign(self._directory, self._hosts)
        return self.certificate()

    def certificate(self) -> Certificate:
        """Certificate of the site's server, signed by the deployment's authority."""
        return self._authority.ensure_certificate(self._directory, self._hosts)


def next_file(seed_file: Path) -> Path:
    """Returns the file of the seed that will take this one's place."""
    return seed_file.with_suffix(".next.nk")


def old_file(seed_file: Path) -> Path:
    """Returns the file of the seed whose place this one has taken."""
    return seed_file.with_suffix(".old.nk")


def valid_keys(key: Key) -> list[Key]:
    """Returns the keys by which a server knows this user: one, and while keys are rotated its successor or predecessor too."""
    others = [file for file in (next_file(key.seed_file), old_file(key.seed_file)) if file.exists()]
    return [key, *(ensure_key(file) for file in others)]


def ensure_key(seed_file: Path) -> Key:
    """Returns the key of this file; makes one when there is none."""
    if not seed_file.exists():
        make_private_directory(seed_file.parent)
        write_secret(seed_file, nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    pair = nkeys.from_seed(bytearray(seed_file.read_bytes()))
    return Key(pair.public_key.decode() if isinstance(pair.public_key, bytes) else pair.public_key, seed_file)
