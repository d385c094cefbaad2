"""One file of the tier: a block's KV, or the checkpoint at its end.

Magic, length of the head, the head (MessagePack, padded), the pieces' bytes one after another, and the xxh3-128 of all before. A
file appears under its name only when it is whole; what a crash of the machine cuts off all the same, the checksum finds.
"""

import os
from pathlib import Path

import msgspec
import xxhash

from prfaas.kvcache.block import Part
from prfaas.kvcache.layout import KVPiece, LayerRange
from prfaas.secrets.secret_files import open_secret

SCRATCH_SUFFIX = ".new"
_MAGIC = b"prfaaskv"
_VERSION = 1
_LENGTH_BYTES = 4
_ALIGN_BYTES = 64
_CHECKSUM_BYTES = 16


class DamagedFileError(Exception):
    """A file whose content is not what was written; the message says what is wrong with it."""


class Head(msgspec.Struct, frozen=True, array_like=True):
    version: int
    fingerprint: str
    """Model whose KV it is."""
    hash: int
    checkpoint: bool
    proof: bytes
    """Keyed digest of all tokens up to the block's end (`kvcache.blocks.block_proofs`)."""
    pieces: tuple[tuple[int, int, int, int, int], ...]
    """Layer, first and last token, bytes of keys, bytes of values."""


def encode_head(fingerprint: str, hash: int, proof: bytes, part: Part, *, checkpoint: bool) -> bytes:
    """Returns all that stands before the KV."""
    pieces = tuple((*piece.range, piece.keys.nbytes, piece.values.nbytes) for piece in part.pieces)
    head = msgspec.msgpack.encode(Head(_VERSION, fingerprint, hash, checkpoint, proof, pieces))
    start = len(_MAGIC) + _LENGTH_BYTES
    padding = -(start + len(head)) % _ALIGN_BYTES
    return _MAGIC + len(head).to_bytes(_LENGTH_BYTES, "little") + head + bytes(padding)


def size_of(head: bytes, part: Part) -> int:
    return len(head) + sum(piece.size_bytes for piece in part.pieces) + _CHECKSUM_BYTES


def write_block(path: Path, head: bytes, part: Part) -> None:
    """Writes a file with mode 0600 in one step. Raises OSError, and leaves nothing behind then."""
    scratch = path.with_name(path.name + SCRATCH_SUFFIX)
    digest = xxhash.xxh3_128()
    try:
        with os.fdopen(open_secret(scratch), "wb", buffering=0) as file:
            halves = [half for piece in part.pieces for half in (piece.keys, piece.values)]
            for data in (memoryview(head), *halves):
                digest.update(data)
                _write_all(file.fileno(), data)
            _write_all(file.fileno(), memoryview(digest.digest()))
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def read_block(path: Path, fingerprint: str, hash: int, proof: bytes, *, checkpoint: bool) -> Part:
    """Reads the KV of the tokens that `proof` stands for. Raises OSError, and DamagedFileError for all else."""
    with path.open("rb", buffering=0) as file:
        data = bytearray(os.fstat(file.fileno()).st_size)
        view = memoryview(data)
        read = 0
        while count := file.readinto(view[read:]):
            read += count
    if read < len(data) or read < len(_MAGIC) + _LENGTH_BYTES + _CHECKSUM_BYTES:
        raise DamagedFileError(f"{path} has only {read} bytes")
    if xxhash.xxh3_128_digest(view[:-_CHECKSUM_BYTES]) != view[-_CHECKSUM_BYTES:]:
        raise DamagedFileError(f"the checksum of {path} is wrong")
    start = len(_MAGIC) + _LENGTH_BYTES
    end = start + int.from_bytes(view[len(_MAGIC) : start], "little")
    try:
        head = msgspec.msgpack.decode(view[start:end], type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedFileError(f"the head of {path} cannot be read: {error}") from error
    if view[: len(_MAGIC)] != _MAGIC or head.version != _VERSION:
        raise DamagedFileError(f"{path} is no file of this version")
    if (head.fingerprint, head.hash, head.checkpoint, head.proof) != (fingerprint, hash, checkpoint, proof):
        raise DamagedFileError(f"{path} has the KV of other tokens or of another model")
    at = end + -end % _ALIGN_BYTES
    pieces = []
    for layer, first, last, key_bytes, value_bytes in head.pieces:
        middle = at + key_bytes
        pieces.append(KVPiece(LayerRange(layer, first, last), view[at:middle], view[middle : middle + value_bytes]))
        at = middle + value_bytes
    if at != len(data) - _CHECKSUM_BYTES:
        raise DamagedFileError(f"{path} has {len(data)} bytes, where its head says {at + _CHECKSUM_BYTES}")
    return Part.of(pieces)


def _write_all(descriptor: int, data: memoryview) -> None:
    data = data.cast("B")
    while data:
        data = data[os.write(descriptor, data) :]
