"""One file: what was written comes back, and anything else is refused."""

import stat
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from prfaas.kvcache.block import Part
from prfaas.kvcache.layout import KVPiece, LayerRange
from prfaas.worker.disk_tier.block_file import DamagedFileError, encode_head, read_block, size_of, write_block
from tests.budget import examples

PROOF = bytes(range(32))
PART = Part.of([
    KVPiece(LayerRange(0, 512, 1024), memoryview(b"keys" * 100), memoryview(b"values" * 50)),
    KVPiece(LayerRange(3, 0, 1024), memoryview(bytearray(b"a state")), memoryview(b"")),
])  # fmt: skip


def write(path: Path, part: Part = PART) -> int:
    head = encode_head("model a", 7, PROOF, part, checkpoint=False)
    write_block(path, head, part)
    return size_of(head, part)


def read(path: Path, fingerprint: str = "model a", hash: int = 7, proof: bytes = PROOF, *, checkpoint: bool = False) -> Part:
    return read_block(path, fingerprint, hash, proof, checkpoint=checkpoint)


def test_what_was_written_comes_back_in_memory_that_may_be_written(tmp_path: Path) -> None:
    path = tmp_path / "one"
    assert write(path) == path.stat().st_size
    assert read(path) == PART
    assert not read(path).pieces[0].keys.readonly
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["one"]
    assert read_block(path, "model a", 7, PROOF, checkpoint=False).pieces[1].range == LayerRange(3, 0, 1024)


def test_an_empty_part_has_a_file_too(tmp_path: Path) -> None:
    write(tmp_path / "one", Part((), 0))
    assert read(tmp_path / "one") == Part((), 0)


@pytest.mark.parametrize(
    "other",
    [{"fingerprint": "model b"}, {"hash": 8}, {"proof": bytes(32)}, {"checkpoint": True}],
    ids=lambda other: next(iter(other)),
)
def test_the_kv_of_others_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    write(tmp_path / "one")
    with pytest.raises(DamagedFileError, match="other tokens or of another model"):
        read(tmp_path / "one", **other)  # type: ignore[arg-type]


@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_damage_is_read(tmp_path: Path, data: st.DataObject) -> None:
    """A bit turned anywhere, and a file cut off or grown anywhere."""
    path = tmp_path / "one"
    size = write(path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, size - 1))
    match data.draw(st.sampled_from(["turn", "cut", "grow", "zero"])):
        case "turn":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del content[at:]
        case "grow":
            content += bytes(at + 1)
        case _:  # what a crashed machine may leave: the length of the file, and nothing of its end
            content[at:] = bytes(size - at)
            if bytes(content) == path.read_bytes():
                return
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        read(path)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_block(tmp_path / "one", b"head", Part((KVPiece(LayerRange(0, 0, 1), None, memoryview(b"")),), 3))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
