"""X25519 keys of sites, and the files that they lie in: one key a line, newest first, in base64.

A file is read again when it has changed, so that keys are rotated under load. A file that cannot be read then leaves the last
good keys in use.
"""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from prfaas.telemetry.logs import get_logger

KEY_ID_BYTES = 8
KEY_BYTES = 32
MAX_KEYS = 8

_log = get_logger(__name__)


class KeyFileError(ValueError):
    """Raised for a file that holds no keys; the message names file and line."""


class PublicKey(NamedTuple):
    key_id: bytes
    """First bytes of the SHA-256 of the key: names it in sealed messages."""
    key: X25519PublicKey

    @classmethod
    def parse(cls, raw: bytes) -> "PublicKey":
        return cls(_key_id(raw), X25519PublicKey.from_public_bytes(raw))

    @property
    def line(self) -> str:
        return base64.b64encode(self.key.public_bytes_raw()).decode()


class PrivateKey(NamedTuple):
    key_id: bytes
    """The public key's."""
    key: X25519PrivateKey

    @classmethod
    def parse(cls, raw: bytes) -> "PrivateKey":
        key = X25519PrivateKey.from_private_bytes(raw)
        return cls(_key_id(key.public_key().public_bytes_raw()), key)

    @classmethod
    def generate(cls) -> "PrivateKey":
        return cls.parse(X25519PrivateKey.generate().private_bytes_raw())

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.key_id, self.key.public_key())

    @property
    def line(self) -> str:
        return base64.b64encode(self.key.private_bytes_raw()).decode()


Key = TypeVar("Key")
Named = TypeVar("Named", PublicKey, PrivateKey)


class KeyFile(Generic[Named]):
    def __init__(self, path: Path, parse: Callable[[bytes], Named]) -> None:
        """Raises KeyFileError."""
        self._path = path
        self._parse: Callable[[bytes], Named] = parse
        self._seen = _stamp(path)
        self._keys: list[Named] = read_keys(path, parse)

    def read(self) -> list[Named]:
        """Returns the file's keys, newest first."""
        try:
            seen = _stamp(self._path)
            if seen != self._seen:
                self._keys = read_keys(self._path, self._parse)
                self._seen = seen
                _log.info("keys_read", file=str(self._path), keys=[key.key_id.hex() for key in self._keys])
        except KeyFileError as error:
            _log.error("keys_not_read", file=str(self._path), reason=str(error))
        return self._keys

    def find(self, key_id: bytes) -> Named | None:
        return next((key for key in self.read() if key.key_id == key_id), None)


def read_keys(path: Path, parse: Callable[[bytes], Key]) -> list[Key]:
    """Raises KeyFileError."""
    try:
        lines = path.read_text(encoding="ascii").split()
        raw = [base64.b64decode(line, validate=True) for line in lines]
    except (OSError, ValueError) as error:
        raise KeyFileError(f"{path} cannot be read as keys: {error}") from error
    if not 0 < len(raw) <= MAX_KEYS:
        raise KeyFileError(f"{path} holds {len(raw)} keys, expected 1 to {MAX_KEYS}, one a line")
    for number, key in enumerate(raw, start=1):
        if len(key) != KEY_BYTES:
            raise KeyFileError(f"line {number} of {path} holds {len(key)} bytes, expected {KEY_BYTES} in base64")
    return [parse(key) for key in raw]


def check_hash_key(path: str) -> None:
    """Raises ValueError, which names the setting, for a file that `read_hash_key` could not read."""
    try:
        read_hash_key(path)
    except KeyFileError as error:
        raise ValueError(f"`block-hash-key-file` cannot be used: {error}") from error


def read_hash_key(path: str) -> bytes:
    """Returns the key of block hashes in this file; empty without a path. Raises KeyFileError."""
    return read_keys(Path(path), bytes)[0] if path else b""


def _stamp(path: Path) -> tuple[int, int, int]:
    """Raises KeyFileError."""
    try:
        found = path.stat()
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read as keys: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _key_id(public: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public)
    return digest.finalize()[:KEY_ID_BYTES]
