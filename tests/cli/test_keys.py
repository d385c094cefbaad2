import re
from pathlib import Path

import pytest

from prfaas.cli.__main__ import main
from prfaas.secrets.api_keys import parse_key
from prfaas.secrets.tenants_file import Limits, load_tenants


def test_a_key_is_made_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tenants.toml"
    assert main(["keys", "add", "acme", "--file", str(file), "--tokens-per-minute", "1000", "--requests-at-once", "2"]) == 0
    first = parse_key(capsys.readouterr().out.splitlines()[-1])
    assert main(["keys", "add", "acme", "--file", str(file)]) == 0
    second = parse_key(capsys.readouterr().out.splitlines()[-1])
    assert first is not None and second is not None and first != second
    assert main(["keys", "revoke", first.id, "--file", str(file)]) == 0
    capsys.readouterr()
    assert main(["keys", "list", "--file", str(file)]) == 0
    listed = capsys.readouterr().out
    assert re.search(rf"acme +{first.id} +\S+ +revoked", listed) and re.search(rf"acme +{second.id} +\S+ +in use", listed)
    assert re.search(r"acme +- +1000 +2 +-$", listed, re.MULTILINE)
    assert first.text not in listed and second.text not in listed
    tenants = load_tenants(file)
    assert tenants.tenants == {"acme": Limits(tokens_per_minute=1000, requests_at_once=2)}
    assert [key.matches(entry.sha256) for key, entry in zip((first, second), tenants.keys, strict=True)] == [True, True]


@pytest.mark.parametrize("words", [
    ["add", "a b"], ["add", "acme", "--tokens-per-minute", "0"], ["add", "acme", "--tokens-per-minute", str(1 << 60)],
    ["revoke", "0123abcd"], ["list"],
])  # fmt: skip
def test_a_wrong_call_is_answered_with_a_sentence_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["keys", *words, "--file", str(tmp_path / "none.toml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("prfaas keys: ") and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
