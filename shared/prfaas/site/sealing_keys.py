"""Sealing keys of sites: a private file in each site's folder, and the public keys of its peers beside it.

A site's workers share one private file. Public files are what the sites' operators exchange; they are no secrets, but who can
write them can read what is sealed.
"""

import base64
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prfaas.sealing.keys import KEY_BYTES, PrivateKey, read_keys
from prfaas.secrets.secret_files import make_private_directory, replace_secret
from prfaas.site.file_places import FilePlaces
from prfaas.site.sites import AUTHORITY_FOLDER, Description, Role, Service


class SealingKeys:
    """Sealing keys of one site, under `<directory>/keys`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "keys"
        self.private_file = self._directory / "sealing.key"
        self.hash_key_file = self._directory / "block-hashes.key"

    def peer_file(self, peer: str) -> Path:
        """Returns the file with the public keys of another site."""
        return self._directory / f"sealing-{peer}.pub"

    def write_hash_key(self, content: bytes) -> None:
        """Writes the deployment's key of block hashes."""
        make_private_directory(self._directory)
        replace_secret(self.hash_key_file, content)

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


def make_sealing_files(description: Description, directory: Path) -> None:
    """Makes the keys that sealing needs and that are not there, and writes public keys beside the sites that need them."""
    if not any(site.seals for site in description.sites):
        return
    keys = {site.name: SealingKeys(directory / site.name) for site in description.sites}
    # All sites' block hashes are alike: a prefill site may have pd sites that seal and others that do not.
    hash_key = _ensure_hash_key(directory / AUTHORITY_FOLDER / "block-hashes.key")
    for name, own in keys.items():
        own.write_hash_key(hash_key)
        for peer in description.sealing_peers(name):
            own.ensure()
            own.write_peer(peer, keys[peer].ensure())


def sealing_settings(description: Description, places: FilePlaces, service: Service) -> dict[str, Any]:
    """Returns the keys of a service's configuration that sealing needs, and makes the files that they name."""
    if not any(site.seals for site in description.sites) or service.role in (Role.SCHEDULER, Role.BANDWIDTH_PROBE):
        return {}
    make_sealing_files(description, places.made_in)
    own = SealingKeys(places.made_in / service.site)
    keyed = {"block-hash-key-file": str(places.final(own.hash_key_file))}
    peers = description.sealing_peers(service.site)
    if not peers or service.role is Role.GATEWAY:
        return keyed
    files = {peer: str(places.final(own.peer_file(peer))) for peer in peers}
    return keyed | {"sealing": {"private-key-file": str(places.final(own.private_file)), "peers": files}}


def _ensure_hash_key(path: Path) -> bytes:
    """Returns the content of a file with a deployment's key of block hashes; makes one when there is none."""
    if not path.exists():
        make_private_directory(path.parent)
        replace_secret(path, _lines([base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()]))
    return path.read_bytes()


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
