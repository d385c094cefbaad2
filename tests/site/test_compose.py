from pathlib import Path
from typing import Any

import msgspec.yaml
import pytest

from prfaas.cli.__main__ import main
from prfaas.site.container_files import CONTAINER_FOLDER
from prfaas.site.sites import Role

EXAMPLES = Path(__file__).parents[2] / "examples"
LINK = '[[links]]\nbetween = ["far", "home"]\nrate-mbit = 50\nrtt-ms = 20\n'


def compose(folder: Path, *words: str, description: Path = EXAMPLES / "containers.toml") -> dict[str, Any]:
    assert main(["site", "compose", *words, "--sites", str(description), "--directory", str(folder)]) == 0
    found: dict[str, Any] = msgspec.yaml.decode((folder / "compose.yaml").read_text())
    return found


def networks_of(service: dict[str, Any]) -> set[str]:
    return set(service.get("networks", {}))


def test_two_sites_meet_in_one_network_where_only_their_servers_are(tmp_path: Path) -> None:
    file = compose(tmp_path)
    shared = [name for name, each in file["services"].items() if "far-home" in networks_of(each)]
    assert shared == ["home-place", "far-place"]
    for name, each in file["services"].items():
        site = name.partition("-")[0]
        assert networks_of(each) <= {site, f"{site}-clients", "far-home"}, name
    assert file["services"]["home-place"]["networks"]["far-home"] == {"aliases": ["home-nats"]}
    assert {name for name, each in file["networks"].items() if not each.get("internal")} == {"home-clients"}
    assert file["services"]["home-nats"]["network_mode"] == "service:home-place"


def test_every_container_is_hardened_and_bounded(tmp_path: Path) -> None:
    services = compose(tmp_path)["services"]
    assert len(services) == 2 * 2 + len(Role) + 3
    for name, each in services.items():
        assert each["read_only"] and each["cap_drop"] == ["ALL"] and each["security_opt"] == ["no-new-privileges:true"], name
        assert each["mem_limit"] and each["cpus"] and each["pids_limit"], name
        assert each["stop_grace_period"] == "30s", name


def test_a_process_gets_its_own_secrets_and_no_others(tmp_path: Path) -> None:
    services = compose(tmp_path)["services"]
    for name in ("home-gateway", "home-decode-worker", "far-prefill-worker"):
        site, _, own = name.partition("-")
        sources = [volume.split(":")[0] for volume in services[name]["volumes"]]
        assert all((tmp_path / source).is_file() for source in sources), sources
        assert all(Path(source).name.startswith(own) for source in sources), sources
        assert f"{CONTAINER_FOLDER}/{site}/{own}.toml" in services[name]["command"]


def test_an_emulated_link_has_the_dialled_site_s_name_and_alone_reaches_it(tmp_path: Path) -> None:
    description = tmp_path / "sites.toml"
    description.write_text((EXAMPLES / "containers.toml").read_text() + LINK)
    services = compose(tmp_path / "made", description=description)["services"]
    link = services["far-home-link"]
    assert link["networks"] == {"far-home": {"aliases": ["home-nats"]}, "far-home-behind-link": {}}
    assert "far-home" not in networks_of(services["home-place"])
    assert services["home-place"]["networks"]["far-home-behind-link"] == {"aliases": ["home-behind-link"]}
    assert link["command"][link["command"].index("--rate-mbit") :][:2] == ["--rate-mbit", "50.0"]


def test_a_site_alone_publishes_its_leaf_port_or_dials_out(tmp_path: Path) -> None:
    example = EXAMPLES / "two_hosts.toml"
    home = compose(tmp_path, "home", description=example)
    assert home["services"]["home-place"]["ports"] == ["7422:7422"]
    far = compose(tmp_path, "far", description=example)
    assert "ports" not in far["services"]["far-place"]
    assert "outside" in networks_of(far["services"]["far-place"])
    assert {name.partition("-")[0] for name in far["services"]} == {"far"}


def test_a_real_model_s_weights_are_prepared_once_and_workers_are_chosen_by_a_profile(tmp_path: Path) -> None:
    services = compose(tmp_path, "home", description=EXAMPLES / "two_hosts.toml")["services"]
    assert (tmp_path / ".env").read_text() == "COMPOSE_PROFILES=cpu\n"
    assert services["home-weights"]["command"][-1] == "gemma-3-270m"
    for name, profile in (("home-prefill-worker", "cpu"), ("home-prefill-worker-gpu", "gpu")):
        assert services[name]["profiles"] == [profile]
        assert services[name]["depends_on"]["home-weights"] == {"condition": "service_completed_successfully"}
        assert "home-weights:/var/cache/prfaas:ro" in services[name]["volumes"]
    assert services["home-prefill-worker-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
    assert services["home-scheduler"].get("profiles") is None


def own_model(path: str) -> str:
    return (EXAMPLES / "two_hosts.toml").read_text().replace('"gemma-3-270m"', f'"{path}"')


def test_a_model_s_directory_is_mounted_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "sites.toml").write_text(own_model("/$models/of:2/mine"))
    services = compose(tmp_path, "home", description=tmp_path / "sites.toml")["services"]
    at = "/$$models/of:2/mine"
    mount = {"type": "bind", "source": at, "target": at, "read_only": True, "bind": {"create_host_path": False}}
    for name in ("home-gateway", "home-prefill-worker", "home-prefill-worker-gpu", "home-decode-worker"):
        assert services[name]["volumes"][-1] == mount, name
        assert services[name]["environment"] == {"PRFAAS_CACHE_DIR": "/tmp/prfaas"}
    assert all("models" not in str(services[name]) for name in ("home-scheduler", "home-bandwidth-probe", "home-nats"))
    assert "home-weights" not in services, "nothing is to be prepared"


def test_one_worker_s_own_model_is_mounted_for_it_alone_beside_the_weights_of_the_others(tmp_path: Path) -> None:
    text = (EXAMPLES / "two_hosts.toml").read_text()
    where = 'site = "home"\nrole = "decode-worker"\n'
    assert where in text
    (tmp_path / "sites.toml").write_text(text.replace(where, where + 'model = "/models/mine"\n'))
    services = compose(tmp_path, "home", description=tmp_path / "sites.toml")["services"]
    assert [name for name, each in services.items() if "/models/mine" in str(each)] == [
        "home-decode-worker", "home-decode-worker-gpu",
    ]  # fmt: skip
    assert services["home-weights"]["command"][-1] == "gemma-3-270m"


@pytest.mark.parametrize(("model", "message"), [
    ("models/mine", "containers cannot have the model 'models/mine': expected is the absolute path of its directory"),
    ("./mine", "containers cannot have the model './mine'"),
    ("~/mine", "containers cannot have the model '~/mine'"),
    ("/models/../etc/mine", "containers cannot have the model '/models/../etc/mine'"),
    ("/etc/prfaas/mine", "containers cannot mount the model's directory /etc/prfaas/mine: they have a /etc/prfaas of their own"),
    ("/var", "containers cannot mount the model's directory /var: they have a /var/lib/prfaas of their own"),
])  # fmt: skip
@pytest.mark.parametrize("action", ["compose", "kubernetes"])
def test_a_model_that_cannot_be_mounted_is_refused_before_a_file_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str, model: str, message: str
) -> None:
    (tmp_path / "sites.toml").write_text(own_model(model))
    made = tmp_path / "made"
    assert main(["site", action, "--sites", str(tmp_path / "sites.toml"), "--directory", str(made)]) == 2
    assert message in capsys.readouterr().err
    assert not made.exists() or not list(made.iterdir())


def test_a_cluster_of_servers_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = tmp_path / "sites.toml"
    servers = "".join(f"[[sites.servers]]\ncluster-port = {port}\n" for port in (6222, 6223, 6224))
    last_key_of_home = 'kind = "pd"\n'
    text = (EXAMPLES / "containers.toml").read_text()
    description.write_text(text.replace(last_key_of_home, last_key_of_home + servers, 1))
    assert main(["site", "compose", "--sites", str(description), "--directory", str(tmp_path / "made")]) == 2
    assert "site home has several servers" in capsys.readouterr().err
