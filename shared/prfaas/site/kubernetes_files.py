"""A kustomization per site of one description, beside the site's files. A site is a cluster, or a namespace of one.

The manifests themselves are written by hand, in `kubernetes/` beside this file: a base and an overlay per kind of site. What
differs between sites comes from the description: the files of each process, how many there are, and where their images are.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec.yaml

from prfaas.site.container_files import (
    CONTAINER_FOLDER,
    SCRATCH_CACHE,
    WORKERS,
    files_of,
    is_emulated,
    mounted_models,
    prepared_models,
    server_files,
)
from prfaas.site.sites import Description, DescriptionError, Role, Service, Site, is_loopback

MANIFESTS = Path(__file__).with_name("kubernetes")
COMPONENTS = ("gpu", "keda", "prometheus")
_COPY = "kubernetes"
"""Folder of the manifests' copy beside those of the sites."""
_IMAGES = ("control", "nats", "weights", "worker", "worker-gpu")
_ROLES_OF_OVERLAY = {
    "pd": (Role.GATEWAY, Role.SCHEDULER, Role.PREFILL_WORKER, Role.DECODE_WORKER),
    "prfaas": (Role.SCHEDULER, Role.PREFILL_WORKER),
}
_OF_ROLE = {"StatefulSet": "apps/v1", "Service": "v1", "PodDisruptionBudget": "policy/v1"}
"""Kinds of objects, named after a role, that a site without a process of that role does not have; with their API's version."""
_POD_FILES = "pods"
"""Folder in a container with each pod's configuration under the pod's name."""


def write_kubernetes(
    description: Description, site: Site, directory: Path, *, images: str, tag: str, components: Sequence[str]
) -> list[Path]:
    """Writes a site's kustomization into `directory/<site>`, and the manifests it stands on beside the sites' folders.

    The site's own files are there already. `images`: repository before the images' names. Raises DescriptionError for a site that
    others dial and that has no address."""
    if is_loopback(site.host) and any(site.name in other.dials for other in description.sites):
        raise DescriptionError(f"other sites dial {site.name}, whose `host` is {site.host}: give the address of its leaf port")
    shutil.copytree(MANIFESTS, directory / _COPY, dirs_exist_ok=True)
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": namespace_of(site),
            "labels": {
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/enforce-version": "latest",
            },
        },
    }
    folder = directory / site.name
    written = {
        "namespace.yaml": namespace,
        "kustomization.yaml": _Kustomization(description, site, directory).render(images, tag, components),
    }
    if site.dials:
        written["out-to-other-sites.yaml"] = _leaf_egress(description, site)
    for name, content in written.items():
        (folder / name).write_text(
            "# Written by `prfaas site kubernetes` from the description of the sites.\n" + msgspec.yaml.encode(content).decode()
        )
    return [folder / name for name in written]


def namespace_of(site: Site) -> str:
    """Returns the namespace of a site, in the small letters and hyphens that Kubernetes takes."""
    return "prfaas-" + site.name.lower().replace("_", "-")


def claim_of(directory: PurePosixPath) -> str:
    """Returns the name of the claim of the volume with a model's directory. Restricted pods mount no folder of a node."""
    return "model-" + re.sub(r"[^a-z0-9]+", "-", directory.name.lower()).strip("-")


class _Kustomization:
    def __init__(self, description: Description, site: Site, directory: Path) -> None:
        self._description = description
        self._site = site
        self._directory = directory
        self._own = [each for each in description.services if each.site == site.name]

    def render(self, images: str, tag: str, components: Sequence[str]) -> dict[str, Any]:
        probes = [each for each in self._own if each.role is Role.BANDWIDTH_PROBE]
        if len(probes) != 1:
            raise DescriptionError(
                f"site {self._site.name} has {len(probes)} bandwidth probes; Kubernetes runs one, beside its server"
            )
        secrets = [
            self._secret("nats-files", server_files(self._directory, self._site)),
            self._secret("bandwidth-probe-files", files_of(self._directory, probes[0])),
        ]
        patches = [self._server_patch(probes[0])]
        for role in _ROLES_OF_OVERLAY[self._site.kind]:
            services = [each for each in self._own if each.role is role]
            if not services:
                patches += [_removed(kind, version, role.value) for kind, version in _OF_ROLE.items()]
                continue
            files = sorted({file for service in services for file in files_of(self._directory, service)})
            secrets.append(self._secret(f"{role}-files", files))
            patches.append(self._role_patch(role, services, files))
        if "keda" in components:
            patches.append(self._scaling_patch())
        return {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": namespace_of(self._site),
            "resources": [
                "namespace.yaml",
                f"../{_COPY}/overlays/{self._site.kind}",
                *(["out-to-other-sites.yaml"] if self._site.dials else []),
            ],
            "components": [f"../{_COPY}/components/{name}" for name in sorted(components)],
            "images": [{"name": f"prfaas/{name}", "newName": f"{images}/{name}", "newTag": tag} for name in _IMAGES],
            "secretGenerator": secrets,
            "patches": [{"patch": msgspec.yaml.encode(patch).decode()} for patch in patches],
        }

    def _secret(self, name: str, files: Sequence[str]) -> dict[str, Any]:
        """Returns a generated Secret of files: pods start anew when one of them changes."""
        return {"name": name, "files": [f"{_key(file)}={PurePosixPath(file).relative_to(self._site.name)}" for file in files]}

    def _server_patch(self, probe: Service) -> dict[str, Any]:
        mounted = {
            "files": ("nats-files", server_files(self._directory, self._site)),
            "probe-files": ("bandwidth-probe-files", files_of(self._directory, probe)),
        }
        volumes = [
            {"name": volume, "secret": {"secretName": secret, "items": _items(files)}}
            for volume, (secret, files) in mounted.items()
        ]
        at = CONTAINER_FOLDER / self._site.name
        containers = [
            {"name": "nats", "args": ["nats-server", "-c", f"{at}/server.conf"]},
            {"name": "bandwidth-probe", "args": ["prfaas-bandwidth-probe", "--config", f"{at}/{probe.name}.toml"]},
        ]
        return _stateful_set("nats", {"template": {"spec": {"containers": containers, "volumes": volumes}}})

    def _role_patch(self, role: Role, services: Sequence[Service], files: Sequence[str]) -> dict[str, Any]:
        items = _items(files)
        for number, service in enumerate(services, 1):
            config = f"{self._site.name}/{service.name}.toml"
            items.append({"key": _key(config), "path": f"{_POD_FILES}/{role}-{number}.toml"})
        pod: dict[str, Any] = {"volumes": [{"name": "files", "secret": {"secretName": f"{role}-files", "items": items}}]}
        container: dict[str, Any] = {"name": role.value}
        prepared = prepared_models(self._description, self._site)
        emulated = role in WORKERS and is_emulated(services[0])
        if emulated:
            container["image"] = "prfaas/control"
        if prepared and not emulated and role in (Role.GATEWAY, *WORKERS):
            pod["initContainers"] = [_weights_job(prepared)]
        elif role in (Role.GATEWAY, *WORKERS):
            container["env"] = [{"name": "PRFAAS_CACHE_DIR", "value": SCRATCH_CACHE}]
        for number, directory in enumerate(mounted_models(self._description, services), 1):
            claim = {"claimName": claim_of(directory), "readOnly": True}
            pod["volumes"].append({"name": f"model-{number}", "persistentVolumeClaim": claim})
            mount = {"name": f"model-{number}", "mountPath": str(directory), "readOnly": True}
            container.setdefault("volumeMounts", []).append(mount)
        if len(container) > 1:
            pod["containers"] = [container]
        return _stateful_set(role.value, {"replicas": len(services), "template": {"spec": pod}})

    def _scaling_patch(self) -> dict[str, Any]:
        workers = sum(each.role is Role.PREFILL_WORKER for each in self._own)
        return {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": "prefill-worker"},
            "spec": {"maxReplicaCount": workers},
        }


def _leaf_egress(description: Description, site: Site) -> dict[str, Any]:
    """Returns the permission of the site's server to dial leaf ports, wherever they are: a host may have any address."""
    ports = sorted({description.site(dialled).leaf_port for dialled in site.dials})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "out-to-other-sites"},
        "spec": {
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "nats"}},
            "policyTypes": ["Egress"],
            "egress": [{"ports": [{"protocol": "TCP", "port": port} for port in ports]}],
        },
    }


def _key(file: str) -> str:
    """Returns the key of a file in a Secret, where slashes are not allowed."""
    return PurePosixPath(file).name


def _items(files: Sequence[str]) -> list[dict[str, str]]:
    return [{"key": _key(file), "path": file} for file in files]


def _stateful_set(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": spec}


def _removed(kind: str, version: str, name: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "$patch": "delete"}


def _weights_job(models: Sequence[str]) -> dict[str, Any]:
    """Returns the container that fills the volume of the weights before the process starts; it does nothing to a full one."""
    return {
        "name": "weights",
        "image": "prfaas/weights",
        "args": ["python", "-m", "prfaas.engine.weights", *models],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}},
        "volumeMounts": [{"name": "cache", "mountPath": "/var/cache/prfaas"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
