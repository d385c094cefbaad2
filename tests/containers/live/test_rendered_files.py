"""Containerfile, compose file and manifests, checked by the tools that know their formats, and by our own rules."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import msgspec.yaml
import pytest

from infra.containers.__main__ import FOLDER
from prfaas.cli.__main__ import main as prfaas
from prfaas.process.config import ServiceConfig
from tests.source_tree import ROOT

pytestmark = pytest.mark.containers

KUBERNETES_VERSION = "1.36"
EXAMPLES = {"compose": ROOT / "examples/containers.toml", "kubernetes": ROOT / "examples/two_hosts.toml"}
WITHOUT_SCHEMA = {"PodMonitor", "ScaledObject"}
"""Kinds that are no part of Kubernetes itself."""
NAME = "app.kubernetes.io/name"

Manifest = dict[str, Any]


def tool(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(FOLDER / "tools/bin" / name), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def compose_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose")
    assert prfaas(["site", "compose", "--sites", str(EXAMPLES["compose"]), "--directory", str(folder)]) == 0
    return folder / "compose.yaml"


@pytest.fixture(scope="module", params=[(), ("gpu", "keda", "prometheus")], ids=["plain", "with everything"])
def kustomized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files with all objects of a site, by site."""
    folder = tmp_path_factory.mktemp("kubernetes")
    words = [word for component in request.param for word in ("--with", component)]
    sites = ["--sites", str(EXAMPLES["kubernetes"]), "--directory", str(folder)]
    assert prfaas(["site", "kubernetes", *sites, "--tag", "0.1.0", *words]) == 0
    found = {}
    for site in ("home", "far"):
        rendered = tool("kubectl", "kustomize", str(folder / site))
        assert rendered.returncode == 0, rendered.stderr
        found[site] = folder / f"{site}.yaml"
        found[site].write_text(rendered.stdout)
    return found


def of_kind(file: Path, kind: str) -> list[Manifest]:
    return [each for each in map(msgspec.yaml.decode, file.read_text().split("\n---\n")) if each["kind"] == kind]


def pods(file: Path) -> Iterator[tuple[str, Manifest]]:
    for each in of_kind(file, "StatefulSet"):
        yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def test_the_containerfile_keeps_the_rules_of_its_linter() -> None:
    checked = tool("hadolint", str(ROOT / "infra/containers/Containerfile"))
    assert checked.returncode == 0, checked.stdout


def test_the_compose_file_fits_its_schema_and_a_misspelt_key_would_not(compose_file: Path, tmp_path: Path) -> None:
    checked = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(compose_file))
    assert checked.returncode == 0, checked.stdout
    misspelt = tmp_path / "compose.yaml"
    misspelt.write_text(compose_file.read_text().replace("read_only:", "raed_only:", 1))
    assert tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(misspelt)).returncode != 0


def test_the_manifests_fit_their_schemas_and_a_misspelt_key_would_not(kustomized: dict[str, Path], tmp_path: Path) -> None:
    for file in kustomized.values():
        checked = tool("kubernetes-validate", "-k", KUBERNETES_VERSION, "--strict", str(file))
        told = checked.stdout + checked.stderr
        assert checked.returncode == 0, told
        unknown = [line for line in told.splitlines() if "find schema" in line]
        assert all(any(kind in line for kind in WITHOUT_SCHEMA) for line in unknown), unknown
        misspelt = tmp_path / file.name
        misspelt.write_text(file.read_text().replace("readOnlyRootFilesystem:", "readonlyRootFilesystem:", 1))
        assert tool("kubernetes-validate", "-k", KUBERNETES_VERSION, "--strict", str(misspelt)).returncode != 0


def test_no_pod_may_do_more_than_it_needs(kustomized: dict[str, Path]) -> None:
    for file in kustomized.values():
        found = dict(pods(file))
        assert {"nats", "prefill-worker"} <= set(found)
        for name, pod in found.items():
            assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False, name
            own = pod["securityContext"]
            assert (own["runAsNonRoot"], own["runAsUser"], own["seccompProfile"]) == (True, 10001, {"type": "RuntimeDefault"}), (
                name
            )
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                may = container["securityContext"]
                assert may["readOnlyRootFilesystem"] and not may["allowPrivilegeEscalation"], container["name"]
                assert may["capabilities"] == {"drop": ["ALL"]}, container["name"]
                assert set(container["resources"]) == {"requests", "limits"}, container["name"]
                assert {"cpu", "memory"} <= set(container["resources"]["limits"]), container["name"]
                assert container["image"].endswith(":0.1.0"), container["image"]


def test_every_process_is_watched_and_has_time_to_drain(kustomized: dict[str, Path]) -> None:
    (drain_s,) = [field.default for field in msgspec.structs.fields(ServiceConfig) if field.name == "drain_s"]
    for file in kustomized.values():
        for name, pod in pods(file):
            notice_s = sum(
                float(each["value"])
                for container in pod["containers"]
                for each in container.get("env", [])
                if each["name"] == "PRFAAS_DRAIN_NOTICE_S"
            )
            assert pod["terminationGracePeriodSeconds"] > drain_s + notice_s, name
            for container in pod["containers"]:
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), container["name"]


def test_every_set_has_a_service_and_a_disruption_budget(kustomized: dict[str, Path]) -> None:
    for file in kustomized.values():
        services = {each["metadata"]["name"]: each["spec"] for each in of_kind(file, "Service")}
        budgets = {each["metadata"]["name"]: each["spec"] for each in of_kind(file, "PodDisruptionBudget")}
        sets = of_kind(file, "StatefulSet")
        assert set(budgets) == {each["metadata"]["name"] for each in sets}
        for each in sets:
            labels = each["spec"]["template"]["metadata"]["labels"]
            assert services[each["spec"]["serviceName"]]["selector"].items() <= labels.items()
            assert budgets[each["metadata"]["name"]]["selector"]["matchLabels"].items() <= labels.items()


def test_no_service_has_a_name_that_would_give_variables_with_our_prefix(kustomized: dict[str, Path]) -> None:
    for file in kustomized.values():
        assert not [each for each in of_kind(file, "Service") if each["metadata"]["name"].startswith("prfaas")]


def test_nothing_is_reached_but_what_a_policy_lists(kustomized: dict[str, Path]) -> None:
    for site, file in kustomized.items():
        policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(file, "NetworkPolicy")}
        assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        opened = {
            (name, rule["port"])
            for name, spec in policies.items()
            for rules in spec.get("ingress", [])
            if "from" not in rules
            for rule in rules["ports"]
        }
        # A site that only prefills is reached by no one, and only the site that dials goes out.
        wanted = {("leaf-port-from-other-sites", 7422), ("gateway-from-clients", 8000)}
        assert opened == (wanted if site == "home" else set())
        assert ("out-to-other-sites" in policies) == (site == "far")


def test_every_file_that_a_process_reads_is_mounted_where_it_looks(kustomized: dict[str, Path]) -> None:
    for file in kustomized.values():
        secrets = {each["metadata"]["name"]: each["data"] for each in of_kind(file, "Secret")}
        for each in of_kind(file, "StatefulSet"):
            pod = each["spec"]["template"]["spec"]
            mounted = {
                f"/etc/prfaas/{item['path']}"
                for volume in pod["volumes"]
                if "secret" in volume
                for item in volume["secret"]["items"]
                if item["key"] in secrets[volume["secret"]["secretName"]]
            }
            first = each["spec"].get("ordinals", {}).get("start", 0)
            for container in pod["containers"]:
                for number in range(first, first + each["spec"]["replicas"]):
                    config = container["args"][-1].replace("$(POD_NAME)", f"{each['metadata']['name']}-{number}")
                    assert config in mounted, f"{container['name']}: {config}"
