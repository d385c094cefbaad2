"""The secret of a pull: only the holder's site reads it, only the named site's workers can have asked, nothing can be changed."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_prefill import SendPrefix
from prfaas.contracts.wire import encode
from prfaas.sealing.author_seal import SealError
from prfaas.sealing.config import SealingConfig
from prfaas.sealing.keys import PrivateKey
from prfaas.sealing.pull_seal import PullSeals, seal, unseal

HOME, FAR, OTHER = (PrivateKey.generate() for _ in range(3))
SECRET = bytes(range(32))
ASK = SendPrefix(
    transfer=KVTransfer(
        transfer_id="t", attempt=1, bucket="pulls-home--far", nuid="n", prefill_tokens=64, from_token=32, fingerprint="f"
    ),
    asking_site="home",
    hashes=b"hashes",
    proofs=b"proofs",
    timeout_s=1.0,
)
CHANGES: list[dict[str, Any]] = [
    {"asking_site": "away"},
    {"hashes": b"others"},
    {"proofs": b"others"},
    {"timeout_s": 2.0},
    *(
        {"transfer": msgspec.structs.replace(ASK.transfer, **change)}
        for change in ({"nuid": "o"}, {"bucket": "pulls-home"}, {"prefill_tokens": 96}, {"from_token": 0}, {"fingerprint": "g"})
    ),
]


def config(directory: Path, own: PrivateKey, **peers: PrivateKey) -> SealingConfig:
    directory.mkdir(exist_ok=True)
    private = directory / "own.key"
    private.write_text(own.line)
    for site, key in peers.items():
        (directory / f"{site}.pub").write_text(key.public.line)
    return SealingConfig(private_key_file=str(private), peers={site: str(directory / f"{site}.pub") for site in peers})


def test_the_holder_reads_the_secret_and_the_message_does_not_show_it() -> None:
    sealed = seal(HOME, FAR.public, ASK, SECRET)
    assert unseal(FAR, HOME.public, sealed) == SECRET
    assert SECRET[:8] not in encode(sealed)


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_of_it_can_be_changed(change: dict[str, Any]) -> None:
    with pytest.raises(SealError, match="broken"):
        unseal(FAR, HOME.public, msgspec.structs.replace(seal(HOME, FAR.public, ASK, SECRET), **change))


def test_who_is_not_of_the_named_site_cannot_ask() -> None:
    with pytest.raises(SealError, match="broken"):
        unseal(FAR, HOME.public, seal(OTHER, FAR.public, ASK, SECRET))


def test_workers_of_a_site_use_its_own_key_and_others_need_one_of_the_peer(tmp_path: Path) -> None:
    home = PullSeals("home", config(tmp_path / "home", HOME, far=FAR))
    far = PullSeals("far", config(tmp_path / "far", FAR, home=HOME))
    for holder_site, holder in (("home", home), ("far", far)):
        assert home.may_ask(holder_site)
        sealed, secret = home.seal(holder_site, ASK)
        assert secret is not None and holder.open(sealed) == secret
    assert not home.may_ask("elsewhere")
    with pytest.raises(SealError, match="sealed prefixes only"):
        home.open(ASK)
    stranger = PullSeals("home", config(tmp_path / "stranger", OTHER, far=FAR))
    with pytest.raises(SealError, match="does not hold"):
        home.open(stranger.seal("home", ASK)[0])


def test_without_a_key_nothing_is_sealed(tmp_path: Path) -> None:
    plain = PullSeals("home", SealingConfig())
    assert plain.may_ask("far") and plain.seal("far", ASK) == (ASK, None) and plain.open(ASK) is None
    sealed, _ = PullSeals("home", config(tmp_path, HOME)).seal("home", ASK)
    with pytest.raises(SealError, match="no key"):
        plain.open(sealed)
