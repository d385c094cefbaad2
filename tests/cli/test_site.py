"""`prfaas site`: what it makes, keeps and says."""

import stat
from pathlib import Path

import pytest

from prfaas.cli.__main__ import main
from prfaas.secrets.secret_files import readable_by_others
from tests.site.taken_by_server import assert_server_takes

SITES = """
model = "m"
[[sites]]
name = "local"
kind = "pd"
host = "pd.example.org"
client-port = 4222
leaf-port = 7422
[[sites]]
name = "remote"
kind = "prfaas"
host = "10.1.2.3"
dials = ["local"]
client-port = 4222
[[services]]
site = "local"
role = "gateway"
[[services]]
site = "remote"
role = "prefill-worker"
"""


class Told:
    """One folder, and the command run in it."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory / "made"
        self.sites = directory / "sites.toml"
        self.sites.write_text(SITES)
        self._capsys = capsys

    def run(self, *words: str, status: int = 0) -> str:
        """Returns what it says on stdout, or on stderr where it fails."""
        given = [*words, "--directory", str(self.directory)]
        assert main(["site", *given, *(["--sites", str(self.sites)] if words[0] != "check" else [])]) == status
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        return said.err if status == 2 else said.out

    def secrets(self) -> dict[str, bytes]:
        found = [path for path in self.directory.rglob("*") if path.suffix in (".nk", ".pem")]
        return {str(path.relative_to(self.directory)): path.read_bytes() for path in found}


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(tmp_path, capsys)


def test_it_makes_all_that_two_hosts_need_and_says_what_goes_where(told: Told) -> None:
    said = told.run("init")
    assert set(told.secrets()) == {
        "authority/ca-key.pem", "authority/ca.pem",
        *(f"{site}/keys/{account}.nk" for site in ("local", "remote") for account in ("ctl", "bulk", "sys")),
        *(f"{site}/keys/{name}.pem" for site in ("local", "remote") for name in ("server", "server-key", "ca")),
        "local/keys/gateway.ctl.nk", "remote/keys/prefill-worker.ctl.nk", "remote/keys/prefill-worker.bulk.nk",
        "remote/keys/leaf-ctl-local.nk", "remote/keys/leaf-bulk-local.nk",
    }  # fmt: skip
    for site, host in (("local", "pd.example.org"), ("remote", "10.1.2.3")):
        assert f"Copy {told.directory}/{site} to {host}, to the same path" in said
    assert f"Keep {told.directory}/authority to yourself" in said
    for seed in (content for name, content in told.secrets().items() if name.endswith((".nk", "key.pem"))):
        assert seed.decode().strip() not in said
    assert list(readable_by_others(told.directory.parent)) == [told.sites]
    folders = [told.directory, *(path for path in told.directory.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert told.run("check") == ""


def test_the_servers_take_the_configurations(told: Told) -> None:
    told.run("init")
    for site in ("local", "remote"):
        assert_server_takes(told.directory / site / "server.conf")
    assert "tls://pd.example.org:7422" in (told.directory / "remote/server.conf").read_text()


def test_a_second_run_replaces_nothing_and_a_new_service_gets_only_its_own(told: Told) -> None:
    told.run("init")
    before = told.secrets()
    assert f"Kept {len(before)} keys and certificates that were there. Nothing was missing." in told.run("init")
    assert told.secrets() == before
    with told.sites.open("a") as sites:
        sites.write('[[services]]\nsite = "local"\nrole = "scheduler"\n')
    said = told.run("init")
    assert "Made 1: local/keys/scheduler.ctl.nk" in said
    assert told.secrets().items() >= before.items() and len(told.secrets()) == len(before) + 1


def test_a_lost_part_of_a_certificate_is_made_again_and_a_lost_authority_is_not(told: Told) -> None:
    told.run("init")
    before = told.secrets()
    (told.directory / "local/keys/ca.pem").unlink()
    told.run("init")
    assert told.secrets()["local/keys/ca.pem"] == before["authority/ca.pem"]
    (told.directory / "authority/ca-key.pem").unlink()
    told.run("init")
    (told.directory / "local/keys/server.pem").unlink()
    assert "without the authority's key nothing can be signed" in told.run("init", status=2)
    assert told.secrets()["authority/ca.pem"] == before["authority/ca.pem"]


def test_a_certificate_is_renewed_for_the_hosts_of_today(told: Told) -> None:
    told.run("init")
    before = told.secrets()
    told.sites.write_text(SITES.replace("pd.example.org", "new.example.org"))
    assert "not for new.example.org: `prfaas site renew local`" in told.run("init")
    assert told.secrets() == before
    assert "is for new.example.org" in told.run("renew", "local")
    changed = {name for name, content in told.secrets().items() if content != before[name]}
    assert changed == {"local/keys/server.pem", "local/keys/server-key.pem"}
    assert "not for" not in told.run("init")


def test_what_cannot_be_is_said_in_a_sentence(told: Told) -> None:
    told.sites.write_text(SITES.replace("leaf-port = 7422", ""))
    said = told.run("init")
    assert "site local has no `leaf-port`" in said and "dials local, which has no `leaf-port`" in said
    assert "no site is called 'nowhere'" in told.run("renew", "nowhere", status=2)
    told.sites.write_text(SITES.replace('"remote"', '"authority"'))
    assert "no site may be called authority" in told.run("init", status=2)
    told.sites.write_text("sites = " + "[" * 100_000)
    assert "nested too deeply" in told.run("init", status=2)
    told.sites.unlink()
    assert str(told.sites) in told.run("init", status=2)
    (told.directory.parent / "file").write_text("")
    told.directory = told.directory.parent / "file" / "made"
    told.sites.write_text(SITES)
    assert "Not a directory" in told.run("init", status=2)


def test_without_tls_there_is_no_authority(told: Told) -> None:
    told.sites.write_text(SITES.replace("pd.example.org", "127.0.0.1").replace("10.1.2.3", "127.0.0.1"))
    assert "authority" not in told.run("init")
    assert not (told.directory / "authority").exists()


def test_a_site_is_added_with_the_services_of_its_kind(told: Told) -> None:
    told.run("init")
    before = told.secrets()
    said = told.run("add", "third", "--kind", "prfaas", "--host", "third.example.org", "--dials", "local")
    assert f"Site third is in {told.sites}." in said and "Copy" in said
    assert told.secrets().items() >= before.items()
    assert_server_takes(told.directory / "third/server.conf")
    assert {path.stem for path in (told.directory / "third").glob("*.toml")} == {"scheduler", "bandwidth-probe", "prefill-worker"}
    assert '"CTL_third"' in (told.directory / "local/server.conf").read_text()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("third", "--kind", "prfaas", "--host", "h"), "give --dials"),
        (("third", "--kind", "prfaas", "--host", "h", "--dials", "nowhere"), "no site is called 'nowhere'"),
        (("remote", "--kind", "prfaas", "--host", "h", "--dials", "local"), "has a site remote already"),
        (("a b", "--kind", "pd", "--host", "h", "--dials", "local"), "site a b: "),
    ],
)
def test_a_site_that_does_not_fit_leaves_the_description_as_it_was(told: Told, words: tuple[str, ...], why: str) -> None:
    assert why in told.run("add", *words, status=2)
    assert told.sites.read_text() == SITES


def test_two_hosts_are_described_and_made_in_an_empty_folder(told: Told) -> None:
    told.sites.unlink()
    told.run("add", "home", "--kind", "pd", "--host", "home.example.org")
    said = told.run("add", "far", "--kind", "prfaas", "--host", "far.example.org", "--dials", "home")
    assert "Copy" in said and "No configuration was written" not in said
    for site in ("home", "far"):
        assert_server_takes(told.directory / site / "server.conf")
    assert "tls://home.example.org:7422" in (told.directory / "far/server.conf").read_text()
    assert "has a site home already" in told.run("add", "home", "--kind", "pd", "--host", "h", status=2)


def test_configurations_are_written_again_for_the_sites_named(told: Told) -> None:
    told.run("init")
    config = told.directory / "local/server.conf"
    config.unlink()
    assert "of site remote" in told.run("render", "remote")
    assert not config.exists()
    told.run("render", "--at", "/srv/prfaas", "--programs", "/opt/bin")
    assert "/srv/prfaas/local/store" in config.read_text()
    assert "/opt/bin/nats-server" in (told.directory / "local/systemd/prfaas-nats-local.service").read_text()
    assert "no site is called 'nowhere'" in told.run("render", "nowhere", status=2)


def test_keys_are_rotated_in_three_steps_and_in_no_other_order(told: Told) -> None:
    told.run("init")
    config = told.directory / "local/server.conf"

    def users() -> int:
        return config.read_text().count("nkey: ")

    once = users()
    assert "the next step of the rotation is `add`, not `use`" in told.run("rotate", "use", status=2)
    assert "`prfaas site rotate use`" in told.run("rotate", "add")
    assert users() == 2 * once
    before = told.secrets()["local/keys/gateway.ctl.nk"]
    told.run("rotate", "use")
    assert told.secrets()["local/keys/gateway.ctl.nk"] != before and users() == 2 * once
    assert "the rotation is over" in told.run("rotate", "drop")
    assert users() == once and before not in told.secrets().values()
