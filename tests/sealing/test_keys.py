"""Key files: what is read, what is refused with its place, and what a file that breaks later does."""

from pathlib import Path

import pytest

from prfaas.sealing.keys import MAX_KEYS, KeyFile, KeyFileError, PrivateKey, PublicKey, read_keys

KEY, NEXT = PrivateKey.generate(), PrivateKey.generate()


def test_private_and_public_keys_are_written_and_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{KEY.line}\n{NEXT.line}\n")
    assert [key.line for key in read_keys(path, PrivateKey.parse)] == [KEY.line, NEXT.line]
    path.write_text(KEY.public.line)
    (public,) = read_keys(path, PublicKey.parse)
    assert (public.key_id, public.line) == (KEY.key_id, KEY.public.line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds 0 keys"),
        ("\n".join([KEY.line] * (MAX_KEYS + 1)), "holds 9 keys"),
        (f"{KEY.line}\nYWJj", "line 2 of .* holds 3 bytes"),
        ("no base64!", "cannot be read as keys"),
        ("é", "cannot be read as keys"),
    ],
)
def test_a_file_that_holds_no_keys_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(KeyFileError, match=message):
        KeyFile(path, PublicKey.parse)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        KeyFile(tmp_path / "none", PublicKey.parse)


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(KEY.line)
    file = KeyFile(path, PrivateKey.parse)
    path.write_text(f"{NEXT.line}\n{KEY.line}")
    assert [key.key_id for key in file.read()] == [NEXT.key_id, KEY.key_id]
    assert file.find(KEY.key_id) is not None
    path.write_text("broken")
    assert [key.key_id for key in file.read()] == [NEXT.key_id, KEY.key_id]
    path.unlink()
    assert file.find(NEXT.key_id) is not None
    path.write_text(KEY.line)
    assert [key.key_id for key in file.read()] == [KEY.key_id]
