"""A command whose extra is not installed says so, and the others work."""

import importlib
from types import ModuleType

import pytest

from prfaas.cli.__main__ import main


def test_a_command_whose_libraries_are_absent_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.import_module

    def without_aiohttp(name: str, package: str | None = None) -> ModuleType:
        if name == "prfaas.cli.replay":
            raise ModuleNotFoundError("No module named 'aiohttp'", name="aiohttp")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without_aiohttp)
    assert main(["replay", "trace.jsonl", "--target", "http://x"]) == 2
    assert "needs aiohttp: pip install 'prfaas[replay]'" in capsys.readouterr().err
    assert main(["plan", "--case", "paper", "--show"]) == 0
