"""Key files of sites that seal: each has its own private keys, its peers' public ones, and the deployment's hash key."""

from pathlib import Path

import pytest

from prfaas.process.config import load_config
from prfaas.sealing.keys import PrivateKey, PublicKey, read_keys
from prfaas.secrets.secret_files import readable_by_others
from prfaas.site.deployment_files import make_all_keys
from prfaas.site.file_places import FilePlaces
from prfaas.site.sealing_keys import SealingKeys, sealing_settings
from prfaas.site.sites import Description, DescriptionError, Role, Service, Site, SiteKind
from prfaas_gateway.config import GatewayConfig

NEAR, FAR, OTHER = "near", "far", "other"
SEALED = Description(
    model="m",
    sites=(
        Site(name=NEAR, kind=SiteKind.PD, client_port=4222, leaf_port=7422, seals=(FAR,)),
        Site(name=OTHER, kind=SiteKind.PD, client_port=4223, leaf_port=7423),
        Site(name=FAR, kind=SiteKind.PRFAAS, client_port=4224, dials=(NEAR, OTHER)),
    ),
)


def service(role: Role, site: str) -> Service:
    return Service(site=site, role=role, name="s")


def test_what_is_made_fits_together_and_is_kept(tmp_path: Path) -> None:
    made = make_all_keys(SEALED, tmp_path)
    private = {name: read_keys(tmp_path / name / "keys/sealing.key", PrivateKey.parse) for name in (NEAR, FAR)}
    public = {
        name: read_keys(SealingKeys(tmp_path / name).peer_file(peer), PublicKey.parse)
        for name, peer in ((NEAR, FAR), (FAR, NEAR))
    }
    assert [key.key_id for key in public[NEAR]] == [key.key_id for key in private[FAR]]
    assert [key.key_id for key in public[FAR]] == [key.key_id for key in private[NEAR]]
    assert not (tmp_path / OTHER / "keys/sealing.key").exists()
    assert len({(tmp_path / name / "keys/block-hashes.key").read_bytes() for name in (NEAR, FAR, OTHER)}) == 1
    assert Path(FAR, "keys", "sealing.key") in made.new
    assert not list(readable_by_others(tmp_path))
    again = make_all_keys(SEALED, tmp_path)
    assert not again.new and sorted(again.kept) == sorted(made.new)
    assert read_keys(tmp_path / NEAR / "keys/sealing.key", PrivateKey.parse)[0].key_id == private[NEAR][0].key_id


def test_services_are_told_what_their_role_needs(tmp_path: Path) -> None:
    assert sealing_settings(SEALED, FilePlaces.here(tmp_path), service(Role.SCHEDULER, NEAR)) == {}
    gateway = sealing_settings(SEALED, FilePlaces.here(tmp_path), service(Role.GATEWAY, NEAR))
    assert (
        set(gateway)
        == {"block-hash-key-file"}
        == set(sealing_settings(SEALED, FilePlaces.here(tmp_path), service(Role.DECODE_WORKER, OTHER)))
    )
    for role, site, peer in ((Role.DECODE_WORKER, NEAR, FAR), (Role.PREFILL_WORKER, FAR, NEAR)):
        assert set(sealing_settings(SEALED, FilePlaces.here(tmp_path), service(role, site))["sealing"]["peers"]) == {peer}
    flags = [
        "--site",
        NEAR,
        "--control.url",
        "nats://127.0.0.1:1",
        "--models",
        "m",
        "--block-hash-key-file",
        gateway["block-hash-key-file"],
    ]
    assert load_config(GatewayConfig, argv=flags, environ={}).block_hash_key_file


def test_a_deployment_that_does_not_seal_has_none_of_it(tmp_path: Path) -> None:
    plain = Description(model="m", sites=(Site(name=NEAR, kind=SiteKind.PD, client_port=4222),))
    make_all_keys(plain, tmp_path)
    assert sealing_settings(plain, FilePlaces.here(tmp_path), service(Role.DECODE_WORKER, NEAR)) == {}
    assert not list(tmp_path.rglob("*.key"))


@pytest.mark.parametrize(
    ("seals", "kind", "message"),
    [
        (("nowhere",), SiteKind.PD, "no site is called"),
        ((OTHER,), SiteKind.PD, "no site beside it"),
        ((NEAR,), SiteKind.PRFAAS, "only prefills"),
    ],
)
def test_a_site_that_cannot_seal_is_refused(seals: tuple[str, ...], kind: SiteKind, message: str) -> None:
    sites = (Site(name=NEAR, kind=kind, seals=seals), Site(name=OTHER, kind=SiteKind.PD))
    with pytest.raises(DescriptionError, match=message):
        Description(model="m", sites=sites).validate()
