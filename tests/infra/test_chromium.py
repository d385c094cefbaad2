"""The browser of tests and pictures: found, or a sentence."""

import os
from pathlib import Path

import pytest

from infra import chromium


def test_one_on_path_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chromium.find() == str(browser)


def test_a_machine_without_one_and_without_apt_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert chromium.main() == 1
    said = capsys.readouterr().err
    assert "there is none on PATH" in said and "no apt-get for `apt-get install" in said
