import os
from pathlib import Path

import pytest

from prfaas.cli.__main__ import main
from prfaas.secrets.secret_files import (
    SecretFileError,
    make_private_directory,
    open_secret,
    read_secret,
    readable_by_others,
    write_secret,
)


def test_files_are_private_whatever_the_umask_and_what_was_there(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        there = tmp_path / "there"
        there.write_text("old and longer")
        there.chmod(0o666)
        for path in (there, tmp_path / "new"):
            write_secret(path, b"secret")
            assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"secret", 0o600)
        os.close(open_secret(there, append=True))
        assert there.read_bytes() == b"secret"
        make_private_directory(tmp_path / "folder")
        assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_what_others_can_reach_is_listed_and_fails_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_private_directory(tmp_path / "private")
    (tmp_path / "private" / "open").write_text("")
    (tmp_path / "private" / "open").chmod(0o644)
    (tmp_path / "folder").mkdir(mode=0o755)
    (tmp_path / "folder").chmod(0o755)
    write_secret(tmp_path / "folder" / "key", b"")
    assert list(readable_by_others(tmp_path)) == []
    assert main(["site", "check", "--directory", str(tmp_path)]) == 0
    (tmp_path / "folder" / "gateway.toml").write_text("")
    (tmp_path / "folder" / "gateway.toml").chmod(0o640)
    assert list(readable_by_others(tmp_path)) == [tmp_path / "folder" / "gateway.toml"]
    assert main(["site", "check", "--directory", str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"0640 {tmp_path}/folder/gateway.toml\n"
    assert main(["site", "check", "--directory", str(tmp_path / "no")]) == 2


def test_roots_file_may_reach_another_user_by_its_group_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mounted"
    write_secret(path, b"secret")
    if path.stat().st_uid != 0:
        pytest.skip("the file must be root's")
    monkeypatch.setattr(os, "geteuid", lambda: 10001)
    path.chmod(0o440)
    assert read_secret(path) == b"secret"
    for mode in (0o460, 0o444, 0o450):
        path.chmod(mode)
        with pytest.raises(SecretFileError, match=f"mode {mode:04o}"):
            read_secret(path)


def test_a_reader_finds_the_old_content_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_secret(path, b"old")
    with path.open("rb") as reading:
        write_secret(path, b"new")
        assert reading.read() == b"old"
    assert read_secret(path) == b"new" and list(tmp_path.iterdir()) == [path]
