"""Weights of a directory: the files that they lie in, their identity by content, and the memory that they take."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import xxhash

from prfaas.engine.model_directory import ModelFiles, WeightsError

WEIGHTS = "model.safetensors"
_INDEX = f"{WEIGHTS}.index.json"
_HASHERS = 4
_BLOCK_BYTES = 1 << 22
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""Bound of safetensors itself."""


class FileState(NamedTuple):
    """State of a file as the file system tells it: another one after every change of its bytes."""

    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int


class _TensorHeader(msgspec.Struct):
    shape: list[int]
    data_offsets: tuple[int, int]


def shards_of(directory: Path) -> list[Path]:
    """Returns the files of the weights in the order that transformers looks for them: one, else those of an index.

    Raises WeightsError for an index without all of its files, and where there is neither."""
    single = directory / WEIGHTS
    if single.is_file():
        return [single]
    index = directory / _INDEX
    try:
        names = sorted(set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()))
    except FileNotFoundError:
        raise WeightsError(
            f"{directory} has neither {WEIGHTS} nor {_INDEX}; expected are weights in the format safetensors"
        ) from None
    except msgspec.DecodeError as error:
        raise WeightsError(f"{index} is no index of shards: {error}") from None
    if strange := [name for name in names if Path(name).name != name]:
        raise WeightsError(f"{index} names {strange[0]!r}; expected are files in the same folder")
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise WeightsError(f"{directory} lacks {_listed(missing)} of the {len(names)} files that {_INDEX} names")
    return [directory / name for name in names]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def memory_bytes(shards: Sequence[Path], element_bytes: int) -> int:
    """Returns the memory of all tensors with elements of that size. Raises WeightsError for a file that is cut short."""
    return sum(math.prod(tensor.shape) * element_bytes for shard in shards for tensor in _header(shard).values())


def states_of(shards: Sequence[Path]) -> list[FileState]:
    found = [shard.stat() for shard in shards]
    return [FileState(each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found]


def weights_digest(files: ModelFiles, shards: Sequence[Path]) -> str:
    """Returns the xxh3-128 of the weights' bytes: of a single file its own, of several that of theirs in the order of names.

    Every byte is read, every time: what a file system remembers of a file shows no bit that has turned on the disk, and two
    sites must never agree on weights that differ. Raises WeightsError for weights that are not those of the conversion."""
    with ThreadPoolExecutor(min(_HASHERS, len(shards), os.cpu_count() or 1), thread_name_prefix="hash weights") as threads:
        digests = list(threads.map(file_digest, shards))
    found = digests[0] if len(digests) == 1 else xxhash.xxh3_128_hexdigest("".join(digests).encode())
    if files.converted_xxh3_128 not in ("", found):
        raise WeightsError(
            f"{shards[0]} is damaged: its xxh3-128 is {found}, converted was {files.converted_xxh3_128}; "
            f"delete {files.directory} to convert it again"
        )
    return found


def file_digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return str(digest.hexdigest())


def _header(shard: Path) -> dict[str, _TensorHeader]:
    """Returns the tensors of a file. Raises WeightsError unless it has all the bytes that they need."""
    with shard.open("rb") as file:
        header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        encoded = file.read(header_bytes) if header_bytes <= _MAX_HEADER_BYTES else b""
    try:
        entries: dict[str, Any] = msgspec.json.decode(encoded, type=dict[str, Any])
        entries.pop("__metadata__", None)
        tensors = msgspec.convert(entries, dict[str, _TensorHeader])
    except msgspec.MsgspecError:
        raise WeightsError(f"{shard} is no file of the format safetensors, or it is damaged at its beginning") from None
    expected_bytes = _LENGTH_BYTES + header_bytes + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    if (size_bytes := shard.stat().st_size) != expected_bytes:
        raise WeightsError(f"{shard} has {size_bytes} bytes, expected are {expected_bytes}: it was not copied whole")
    return tensors


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
