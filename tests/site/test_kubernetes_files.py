from pathlib import Path
from typing import Any

import msgspec.yaml
import pytest

from prfaas.cli.__main__ import main
from prfaas.site.kubernetes_files import MANIFESTS

EXAMPLES = Path(__file__).parents[2] / "examples"


def render(folder: Path, text: str, *words: str) -> dict[str, dict[str, Any]]:
    """Returns the kustomization of each site."""
    folder.mkdir(exist_ok=True)
    (folder / "sites.toml").write_text(text)
    assert main(["site", "kubernetes", *words, "--sites", str(folder / "sites.toml"), "--directory", str(folder)]) == 0
    return {path.parent.name: msgspec.yaml.decode(path.read_text()) for path in folder.glob("*/kustomization.yaml")}


def patch_of(kustomization: dict[str, Any], name: str, kind: str = "StatefulSet") -> dict[str, Any]:
    patches = [msgspec.yaml.decode(each["patch"]) for each in kustomization["patches"]]
    (found,) = [each for each in patches if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    assert isinstance(found, dict)
    return found


def emulated() -> str:
    """The example with emulated engines, at an address that other sites can dial."""
    return (EXAMPLES / "containers.toml").read_text().replace('kind = "pd"', 'kind = "pd"\nhost = "home.example.org"')


def test_the_overlay_and_the_namespace_are_those_of_the_site(tmp_path: Path) -> None:
    found = render(tmp_path, emulated(), "--images", "mine", "--tag", "3")
    assert set(found) == {"home", "far"}
    for site, kind in (("home", "pd"), ("far", "prfaas")):
        assert found[site]["namespace"] == f"prfaas-{site}"
        assert f"../kubernetes/overlays/{kind}" in found[site]["resources"]
        assert {"name": "prfaas/nats", "newName": "mine/nats", "newTag": "3"} in found[site]["images"]
        assert (tmp_path / site / f"../kubernetes/overlays/{kind}/kustomization.yaml").is_file()
    assert [path.name for path in MANIFESTS.rglob("*.yaml")] == [path.name for path in (tmp_path / "kubernetes").rglob("*.yaml")]


def test_each_of_several_workers_finds_its_own_file_by_its_pod_s_name(tmp_path: Path) -> None:
    text = emulated().replace('role = "prefill-worker"', 'role = "prefill-worker"\nreplicas = 3')
    patch = patch_of(render(tmp_path, text)["far"], "prefill-worker")
    assert patch["spec"]["replicas"] == 3
    items = {item["path"]: item["key"] for item in patch["spec"]["template"]["spec"]["volumes"][0]["secret"]["items"]}
    for number in (1, 2, 3):
        assert items[f"pods/prefill-worker-{number}.toml"] == f"prefill-worker-{number}.toml"
        assert f"far/keys/prefill-worker-{number}.ctl.nk" in items


def test_an_emulated_worker_needs_no_torch_and_no_weights_and_a_real_one_both(tmp_path: Path) -> None:
    pod = patch_of(render(tmp_path / "emulated", emulated())["home"], "decode-worker")["spec"]["template"]["spec"]
    assert "initContainers" not in pod
    assert pod["containers"][0]["image"] == "prfaas/control"
    real = render(tmp_path / "real", (EXAMPLES / "two_hosts.toml").read_text())["home"]
    for name in ("decode-worker", "gateway"):
        pod = patch_of(real, name)["spec"]["template"]["spec"]
        assert pod["initContainers"][0]["args"][-1] == "gemma-3-270m", name


def test_a_model_s_directory_is_a_claim_mounted_where_it_lay(tmp_path: Path) -> None:
    text = (EXAMPLES / "two_hosts.toml").read_text().replace('"gemma-3-270m"', '"/models/Llama-3.2_1B"')
    found = render(tmp_path, text)
    for site, name in (("home", "gateway"), ("home", "prefill-worker"), ("home", "decode-worker"), ("far", "prefill-worker")):
        pod = patch_of(found[site], name)["spec"]["template"]["spec"]
        claim = {"claimName": "model-llama-3-2-1b", "readOnly": True}
        assert pod["volumes"][1:] == [{"name": "model-1", "persistentVolumeClaim": claim}]
        assert pod["containers"] == [
            {
                "name": name,
                "env": [{"name": "PRFAAS_CACHE_DIR", "value": "/tmp/prfaas"}],
                "volumeMounts": [{"name": "model-1", "mountPath": "/models/Llama-3.2_1B", "readOnly": True}],
            }
        ]
        assert "initContainers" not in pod
    assert "model" not in str(patch_of(found["home"], "scheduler"))


def test_only_a_site_that_dials_goes_out_and_only_to_leaf_ports(tmp_path: Path) -> None:
    found = render(tmp_path, emulated())
    assert "out-to-other-sites.yaml" not in found["home"]["resources"]
    policy = msgspec.yaml.decode((tmp_path / "far/out-to-other-sites.yaml").read_text())
    assert policy["spec"]["egress"] == [{"ports": [{"protocol": "TCP", "port": 7422}]}]


def test_a_role_that_a_site_does_not_have_is_taken_out(tmp_path: Path) -> None:
    text = emulated()
    start = text.index('[[services]]\nsite = "far"\nrole = "scheduler"')
    without = text[:start] + text[text.index("[[services]]", start + 1) :]
    far = render(tmp_path, without)["far"]
    for kind in ("StatefulSet", "Service", "PodDisruptionBudget"):
        assert patch_of(far, "scheduler", kind)["$patch"] == "delete"


@pytest.mark.parametrize("components", [(), ("gpu", "keda", "prometheus")])
def test_components_are_those_that_were_asked_for(tmp_path: Path, components: tuple[str, ...]) -> None:
    text = emulated().replace('role = "prefill-worker"', 'role = "prefill-worker"\nreplicas = 4')
    far = render(tmp_path, text, *(word for name in components for word in ("--with", name)))["far"]
    assert far["components"] == [f"../kubernetes/components/{name}" for name in components]
    if "keda" in components:
        assert patch_of(far, "prefill-worker", "ScaledObject")["spec"] == {"maxReplicaCount": 4}


def test_a_site_that_is_dialled_needs_an_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = ["--sites", str(EXAMPLES / "containers.toml"), "--directory", str(tmp_path)]
    assert main(["site", "kubernetes", *sites]) == 2
    assert "other sites dial home, whose `host` is 127.0.0.1" in capsys.readouterr().err
