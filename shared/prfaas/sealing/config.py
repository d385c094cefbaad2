"""Settings of sealing, the same for both ends."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from prfaas.contracts.fields import SubjectToken
from prfaas.sealing.keys import KeyFileError, PrivateKey, PublicKey, read_keys


class SealingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    private_key_file: str = ""
    """File with the X25519 private keys of this worker's own site, newest first; all workers of a site hold the same ones."""
    peers: dict[SubjectToken, str] = {}
    """File with the public keys of a site, newest first, by the site's name. Jobs between the own site and these are sealed, and
    plain ones are refused."""

    def __post_init__(self) -> None:
        """Raises ValueError; the message begins with the key."""
        if self.peers and not self.private_key_file:
            raise ValueError("`private-key-file` is missing: with `peers` a worker needs a key of its own site")
        if self.private_key_file:
            _check("private-key-file", self.private_key_file, PrivateKey.parse)
        for site, path in self.peers.items():
            _check(f"peers.{site}", path, PublicKey.parse)


def _check(key: str, path: str, parse: Callable[[bytes], object]) -> None:
    try:
        read_keys(Path(path), parse)
    except KeyFileError as error:
        raise ValueError(f"`{key}` cannot be used: {error}") from error
