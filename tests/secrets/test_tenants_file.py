import datetime
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from prfaas.secrets.api_keys import make_key
from prfaas.secrets.tenants_file import Limits, TenantsError, add_key, load_tenants, revoke_key

TODAY = datetime.date(2026, 11, 29)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_file_that_people_wrote_keeps_their_words(tmp_path: Path) -> None:
    path = write(tmp_path / "t.toml", "# our customers\n[tenants.acme] # paid\nrequests-per-minute = 60\n\n# end")
    first, second = make_key(), make_key()
    add_key(path, first, "acme", Limits(), TODAY)
    add_key(path, second, "beta", Limits(tokens_per_minute=1000), TODAY)
    revoke_key(path, first.id, TODAY)
    add_key(path, third := make_key(), "beta", Limits(), TODAY)
    text = path.read_text()
    assert text.startswith("# our customers\n[tenants.acme] # paid\n") and "# end" in text
    tenants = load_tenants(path)
    assert tenants.tenants == {"acme": Limits(requests_per_minute=60), "beta": Limits(tokens_per_minute=1000)}
    assert [(key.id, key.tenant) for key in tenants.keys] == [(first.id, "acme"), (second.id, "beta"), (third.id, "beta")]
    assert tenants.revoked_ids == {first.id}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_holds_no_key(tmp_path: Path) -> None:
    path, key = tmp_path / "t.toml", make_key()
    add_key(path, key, "acme", Limits(), TODAY)
    assert key.text not in path.read_text() and key.text[-43:] not in path.read_text()


KEY = '[[keys]]\nid = "0123abcd"\ntenant = "a"\nsha256 = "' + "0" * 64 + '"\ncreated = 2026-11-29\n'


@pytest.mark.parametrize(("text", "part"), [
    ("[tenants.a", "t.toml"),
    ("[tenants.a]\nrequests-per-hour = 1", "requests-per-hour"),
    ("[tenants.a]\nrequests-per-minute = 0", "requests-per-minute"),
    ("[tenants.a]\nrequests-per-minute = 1e99", "requests-per-minute"),
    ("[tenants.a]\nrequests-per-minute = nan", "requests-per-minute"),
    ('[tenants."a b"]', "tenants"),
    (KEY, "no table [tenants.a]"),
    (f"[tenants.a]\n{KEY}{KEY}", "two keys have the id 0123abcd"),
    ('[[revoked]]\nid = "0123abcd"\nat = 2026-11-29', "none of the file's keys"),
    (f"[tenants.a]\n{KEY}".replace("0" * 64, "sk-prfaas"), "sha256"),
    ("\x00", "t.toml"),
    ("a = " + "[" * 100_000, "t.toml"),
])  # fmt: skip
def test_what_cannot_be_used_is_said_in_a_sentence(tmp_path: Path, text: str, part: str) -> None:
    path = write(tmp_path / "t.toml", text)
    with pytest.raises(TenantsError, match="tenants file") as raised:
        load_tenants(path)
    assert part in str(raised.value)


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    for wrong in (path, tmp_path / "none.toml", tmp_path):
        with pytest.raises(TenantsError, match=str(wrong)):
            load_tenants(wrong)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o660, 0o602])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "t.toml", "[tenants.a]", mode)
    uses: list[Callable[[], object]] = [lambda: load_tenants(path), lambda: add_key(path, make_key(), "a", Limits(), TODAY)]
    for use in uses:
        with pytest.raises(TenantsError, match=f"mode {mode:04o}.*chmod 600"):
            use()
    assert path.read_text() == "[tenants.a]"


def test_wrong_changes_change_nothing(tmp_path: Path) -> None:
    path, key = tmp_path / "t.toml", make_key()
    add_key(path, key, "acme", Limits(requests_at_once=2), TODAY)
    revoke_key(path, key.id, TODAY)
    before = path.read_bytes()
    changes: list[tuple[Callable[[], object], str]] = [
        (lambda: revoke_key(path, "ffffffff", TODAY), "no key"),
        (lambda: revoke_key(path, key.id, TODAY), "revoked already"),
        (lambda: add_key(path, make_key(), "acme", Limits(requests_at_once=3), TODAY), "other limits"),
        (lambda: add_key(path, make_key(), "a b", Limits(), TODAY), "cannot be used"),
        (lambda: add_key(path, key, "acme", Limits(), TODAY), "two keys"),
    ]
    for change, said in changes:
        with pytest.raises(TenantsError, match=said):
            change()
    assert path.read_bytes() == before


def test_commands_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    keys = [make_key() for _ in range(16)]
    threads = [
        threading.Thread(target=add_key, args=(path, key, f"t{number}", Limits(), TODAY)) for number, key in enumerate(keys)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.id for key in load_tenants(path).keys} == {key.id for key in keys}
