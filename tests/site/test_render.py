"""The renderer: all files of a site from one description, and what each program makes of them."""

import configparser
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

from prfaas.process.config import ServiceConfig, load_config
from prfaas.site.deployment_files import make_all_keys
from prfaas.site.render import UNITS_FOLDER, render_site_files
from prfaas.site.sites import Description, DescriptionError, Role, load_description
from prfaas_bandwidth_probe.config import BandwidthProbeConfig
from prfaas_decode_worker.config import DecodeWorkerConfig
from prfaas_gateway.config import GatewayConfig
from prfaas_prefill_worker.config import PrefillWorkerConfig
from prfaas_scheduler.config import SchedulerConfig
from tests.site.taken_by_server import assert_server_takes
from tests.source_tree import ROOT, source_files

CONFIGS: dict[Role, type[ServiceConfig]] = {
    Role.GATEWAY: GatewayConfig,
    Role.SCHEDULER: SchedulerConfig,
    Role.PREFILL_WORKER: PrefillWorkerConfig,
    Role.DECODE_WORKER: DecodeWorkerConfig,
    Role.BANDWIDTH_PROBE: BandwidthProbeConfig,
}
SITES = """
model = "gemma-3-270m"
[[sites]]
name = "home"
kind = "pd"
host = "home.example.org"
client-host = "nats.home"
listen-host = "0.0.0.0"
monitor-host = "0.0.0.0"
http-host = "0.0.0.0"
client-tls = true
seals = ["far"]
client-port = 4222
leaf-port = 7422
monitor-port = 8222
[[sites]]
name = "far"
kind = "prfaas"
host = "far.example.org"
dials = ["home"]
client-port = 4222
monitor-port = 8222
store-directory = "/var/lib/prfaas"
egress-mbit = { home = 400 }
"""
SITES += "".join(f'[[services]]\nsite = "home"\nrole = "{role}"\nhttp-port = 8080\n' for role in Role)
SITES += "".join(
    f'[[services]]\nsite = "far"\nrole = "{role}"\nreplicas = {count}\nhttp-port = 8101\n'
    for role, count in (("scheduler", 1), ("bandwidth-probe", 1), ("prefill-worker", 2))
)
CLUSTER = """
[[sites.servers]]
host = "a.example.org"
client-host = "a.internal"
cluster-port = 6222
[[sites.servers]]
host = "b.example.org"
client-host = "b.internal"
cluster-port = 6222
[[sites.servers]]
host = "c.example.org"
client-host = "c.internal"
cluster-port = 6222
"""
WITH_CLUSTER = SITES.replace('[[sites]]\nname = "far"', f'{CLUSTER}[[sites]]\nname = "far"')


def load(directory: Path, text: str) -> Description:
    path = directory / "sites.toml"
    path.write_text(text)
    return load_description(path)


def rendered(directory: Path, text: str = SITES, lies_at: Path | None = None) -> dict[str, list[Path]]:
    description = load(directory, text)
    made = directory / "made"
    make_all_keys(description, made)
    return {site.name: render_site_files(description, site, made, lies_at=lies_at) for site in description.sites}


def test_every_service_takes_its_file_and_every_server_its_own(tmp_path: Path) -> None:
    for paths in rendered(tmp_path).values():
        for path in paths:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            if path.suffix == ".toml":
                role = Role(re.sub(r"-\d+$", "", path.stem))
                config = load_config(CONFIGS[role], argv=["--config", str(path)], environ={})
                config.check_files()
                assert config.control.url == {"home": "tls://nats.home:4222", "far": "nats://127.0.0.1:4222"}[config.site]
                assert config.http_host == {"home": "0.0.0.0", "far": "127.0.0.1"}[config.site]
            if path.suffix == ".conf":
                assert_server_takes(path)


def test_replicas_have_ports_one_after_another(tmp_path: Path) -> None:
    files = [path for path in rendered(tmp_path)["far"] if path.name.startswith("prefill-worker")]
    assert [tomllib.loads(path.read_text())["http-port"] for path in files] == [8101, 8102]


def test_files_for_another_place_name_that_place_only(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for paths in rendered(tmp_path, lies_at=Path("/etc/prfaas")).values():
        for path in paths:
            text = path.read_text()
            assert str(tmp_path) not in text
            named = [Path(found) for found in re.findall(r'"?(/etc/prfaas/[^" \n]+)', text)]
            for each in (each for each in named if each.name != "store"):
                assert (made / each.relative_to("/etc/prfaas")).is_file(), (path, each)


def test_each_process_has_a_unit_that_starts_it_with_its_file(tmp_path: Path) -> None:
    for site, paths in rendered(tmp_path, WITH_CLUSTER).items():
        configs = {path for path in paths if path.suffix in (".toml", ".conf")}
        started = set()
        for path in (path for path in paths if path.suffix == ".service"):
            assert path.parent.name == UNITS_FOLDER
            unit = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
            unit.optionxform = str  # type: ignore[assignment, method-assign]
            unit.read_string(path.read_text())
            assert unit["Unit"]["PartOf"] == unit["Install"]["WantedBy"] == f"prfaas-{site}.target"
            program, *_, config = unit["Service"]["ExecStart"].split()
            assert (Path(program).name == "nats-server") == config.endswith(".conf")
            started.add(Path(config))
        assert started == configs


@pytest.mark.parametrize("folder", ["plain", "a folder, 100%"])
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, folder: str) -> None:
    if (program := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not there: it comes with systemd")
    (tmp_path / folder).mkdir()
    units = [path for path in rendered(tmp_path / folder)["home"] if path.parent.name == UNITS_FOLDER]
    said = subprocess.run([program, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")


def test_a_cluster_has_a_configuration_for_each_server_and_clients_know_all(tmp_path: Path) -> None:
    files = {path.name: path for path in rendered(tmp_path, WITH_CLUSTER)["home"]}
    for number, host in enumerate("abc", 1):
        conf = files[f"server-{number}.conf"]
        assert_server_takes(conf)
        text = conf.read_text()
        assert f"server_name: home-{number}\n" in text
        assert {other for other in "abc" if f"{other}.internal:6222" in text} == set("abc") - {host}
        assert "verify: true" in text[text.index("cluster {") : text.index("leafnodes {")]
    control = tomllib.loads(files["gateway.toml"].read_text())["control"]
    assert control["url"] == ",".join(f"tls://{host}.internal:4222" for host in "abc")
    assert control["replicas"] == 3
    remote = (tmp_path / "made/far/server.conf").read_text()
    assert 'urls: ["tls://a.example.org:7422", "tls://b.example.org:7422", "tls://c.example.org:7422"]' in remote


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('client-host = "nats.home"', 'clint-host = "nats.home"', r"clint-host.*sites\[0\]"),
        (
            'cluster-port = 6222\n[[sites.servers]]\nhost = "b',
            'route-port = 1\n[[sites.servers]]\nhost = "b',
            r"route-port.*servers\[0\]",
        ),
        (
            '[[sites.servers]]\nhost = "c.example.org"\nclient-host = "c.internal"\ncluster-port = 6222\n',
            "",
            "has 2 servers: an odd",
        ),
        ('name = "far"', 'name = "home-2"', "would be called home-2"),
        ("replicas = 2\nhttp-port = 8101", "replicas = 2\nhttp-port = 65535", "`http-port` 65535 on has no ports left"),
    ],
)
def test_a_description_that_cannot_be_is_refused_by_name(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in WITH_CLUSTER
    with pytest.raises(DescriptionError, match=said):
        load(tmp_path, WITH_CLUSTER.replace(old, new).replace('seals = ["far"]\n', ""))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("client-port = 4222", "server home-1 of site home has no `client-port`"),
        ("leaf-port = 7422", "server home-1 of site home has no `leaf-port`"),
        ('client-host = "b.internal"\ncluster-port = 6222', "server home-2 of site home has no `cluster-port`"),
    ],
)
def test_a_port_that_others_must_know_may_not_be_left_open(tmp_path: Path, key: str, said: str) -> None:
    description = load(tmp_path, WITH_CLUSTER.replace(key, "", 1))
    with pytest.raises(DescriptionError, match=said):
        render_site_files(description, description.site("home"), tmp_path / "made")


def test_no_other_file_of_the_tree_writes_a_servers_configuration() -> None:
    """One file renders servers of sites; another one has a bare server for tests, which knows no accounts."""
    words = re.compile(r"leafnodes\s*\{|store_dir:|jetstream\s*\{|no_advertise:")
    writers = [str(path) for path in source_files() if words.search((ROOT / path).read_text())]
    assert writers == ["shared/prfaas/site/site_config.py", "shared/prfaas/stack/nats_server.py"]
    assert not re.search(r"accounts\s*\{", (ROOT / writers[1]).read_text())
