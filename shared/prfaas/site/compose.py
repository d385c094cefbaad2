"""Compose files for the sites of one description: every process a container, a network per site, and one per pair of sites.

A site's server and its bandwidth probe share the network namespace of a container that does nothing else: it keeps the site's
addresses while the server restarts, and lets the probe see the leaf connections. It alone is in the networks between sites, so no
other process reaches the other site.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import msgspec.yaml

from prfaas.site.container_files import (
    CACHE,
    CONTAINER_FOLDER,
    HTTP_PORT,
    SCRATCH_CACHE,
    SERVER_NAME,
    STORE,
    WORKERS,
    files_of,
    is_emulated,
    mounted_models,
    prepared_models,
)
from prfaas.site.sites import Description, DescriptionError, Link, Role, Service, Site, is_loopback

STOP_GRACE_S = 30
"""Longer than `drain-s`, after which a process ends by itself."""
_IMAGE = "${PRFAAS_IMAGES:-localhost/prfaas}/%s:${PRFAAS_TAG:-latest}"
_MIB = 1 << 20


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one container."""

    cpus: float
    memory_mib: int
    pids: int = 256


_LIMITS = {
    Role.GATEWAY: Limits(cpus=2, memory_mib=1024),
    Role.SCHEDULER: Limits(cpus=1, memory_mib=512),
    Role.BANDWIDTH_PROBE: Limits(cpus=0.5, memory_mib=256),
}
_EMULATED = Limits(cpus=1, memory_mib=768)
_REAL = Limits(cpus=4, memory_mib=8192)


def for_compose(description: Description) -> Description:
    """Returns the description with what sites in networks of their own need.

    A site whose `host` is a loopback address gets a name, by which sites of one machine meet. Clients are heard in the site's own
    network only, so that in one between two sites nothing but the leaf port is open."""

    def placed(site: Site) -> Site:
        host = f"{site.name}-{SERVER_NAME}" if is_loopback(site.host) else site.host
        return msgspec.structs.replace(site, host=host, listen_host=SERVER_NAME, leaf_listen_host="0.0.0.0")

    return msgspec.structs.replace(description, sites=tuple(map(placed, description.sites)))


def render_compose(description: Description, sites: Sequence[str], directory: Path) -> str:
    """Returns a compose file of these sites. The description is one for containers, and the sites' files are in `directory`.

    Sites that are joined and both in the file meet in a network of their own. A site whose neighbour is elsewhere publishes its
    leaf port, or dials out of its machine."""
    file = _ComposeFile(description, sites, directory)
    return (
        "# Written by `prfaas site compose` from the description of the sites, and written anew by the next one: change the\n"
        "# description instead, or put changes into compose.override.yaml beside this file.\n"
        + msgspec.yaml.encode(file.render()).decode()
    )


class _ComposeFile:
    def __init__(self, description: Description, sites: Sequence[str], directory: Path) -> None:
        self._description = description
        self._directory = directory
        self._sites = [description.site(name) for name in sites]
        self._networks: dict[str, Any] = {}
        self._volumes: dict[str, Any] = {}

    def render(self) -> dict[str, Any]:
        services: dict[str, Any] = {}
        for site in self._sites:
            self._networks[site.name] = {"internal": True}
            services |= self._server(site)
            if prepared_models(self._description, site):
                services[f"{site.name}-weights"] = self._weights_job(site)
            for service in self._description.services:
                if service.site == site.name:
                    services |= self._service(site, service)
        services |= self._links()
        return {"name": "prfaas", "services": services, "networks": self._networks, "volumes": self._volumes}

    def _server(self, site: Site) -> dict[str, Any]:
        """Returns nats-server and the container whose network it is in."""
        place = f"{site.name}-place"
        memory_mib = site.max_memory_bytes // _MIB + 1024
        self._volumes[f"{site.name}-store"] = {}
        return {
            place: _hardened("nats", ["sleep", "infinity"], Limits(cpus=0.1, memory_mib=32, pids=16))
            | {"healthcheck": {"disable": True}, "networks": self._joined_networks(site)}
            | self._published_leaf_port(site),
            f"{site.name}-{SERVER_NAME}": _hardened(
                "nats",
                ["nats-server", "-c", f"{CONTAINER_FOLDER}/{site.name}/server.conf"],
                Limits(cpus=2, memory_mib=memory_mib),
            )
            | {
                "network_mode": f"service:{place}",
                "depends_on": {place: {"condition": "service_started"}},
                # Soft: near it Go collects garbage as often as by default.
                "environment": {"GOGC": "400", "GOMEMLIMIT": f"{memory_mib - 256}MiB", "GODEBUG": "madvdontneed=0"},
                "volumes": [f"./{site.name}:{CONTAINER_FOLDER}/{site.name}:ro", f"{site.name}-store:{STORE}"],
            },
        }

    def _joined_networks(self, site: Site) -> dict[str, Any]:
        networks: dict[str, Any] = {site.name: {"aliases": [SERVER_NAME]}}
        names = {each.name for each in self._sites}
        for other in self._description.neighbours(site.name):
            if other.name not in names:
                self._networks["outside"] = {}
                networks["outside"] = {}
                continue
            dialler, dialled = (site, other) if other.name in site.dials else (other, site)
            network = f"{dialler.name}-{dialled.name}"
            self._networks[network] = {"internal": True}
            if dialler is site:
                networks[network] = {}
            elif self._description.link(dialler.name, dialled.name) is None:
                networks[network] = {"aliases": [dialled.host]}
            else:
                behind = f"{network}-behind-link"
                self._networks[behind] = {"internal": True}
                networks[behind] = {"aliases": [f"{dialled.name}-behind-link"]}
        return networks

    def _published_leaf_port(self, site: Site) -> dict[str, Any]:
        names = {each.name for each in self._sites}
        dialled_from_elsewhere = any(site.name in other.dials and other.name not in names for other in self._description.sites)
        return {"ports": [f"{site.leaf_port}:{site.leaf_port}"]} if dialled_from_elsewhere else {}

    def _links(self) -> dict[str, Any]:
        """Returns an emulated link for each described one. It has the dialled site's name in the dialling site's network."""
        names = {each.name for each in self._sites}
        services: dict[str, Any] = {}
        for link in self._description.links:
            dialler, dialled = link.between
            if not {dialler, dialled} <= names:
                raise DescriptionError(f"the emulated link between {dialler} and {dialled} needs both sites in one compose file")
            network, port = f"{dialler}-{dialled}", self._description.site(dialled).leaf_port
            command = ["python", "-m", "prfaas.wan", "--listen", f"0.0.0.0:{port}", "--control", "127.0.0.1:7500"]
            command += ["--connect", f"{dialled}-behind-link:{port}", *_link_flags(link)]
            services[f"{network}-link"] = _hardened("lab", command, Limits(cpus=1, memory_mib=512)) | {
                "networks": {
                    network: {"aliases": [self._description.site(dialled).host]},
                    f"{network}-behind-link": {},
                }
            }
        return services

    def _service(self, site: Site, service: Service) -> dict[str, Any]:
        """Returns the container of one service: of a worker with a real model two, of which a profile chooses one."""
        base = self._process(site, service)
        name = f"{site.name}-{service.name}"
        if service.role not in WORKERS:
            return {name: _hardened("control", _command(service), _LIMITS[service.role]) | base}
        if is_emulated(service):
            return {name: _hardened("control", _command(service), _EMULATED) | base | {"profiles": ["emulated"]}}
        gpu = {
            "deploy": {"resources": {"reservations": {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}}}
        }
        return {
            name: _hardened("worker", _command(service), _REAL) | base | {"profiles": ["cpu"]},
            f"{name}-gpu": _hardened("worker-gpu", _command(service), _REAL) | base | {"profiles": ["gpu"]} | gpu,
        }

    def _process(self, site: Site, service: Service) -> dict[str, Any]:
        found: dict[str, Any] = {
            "volumes": [f"./{path}:{CONTAINER_FOLDER}/{path}:ro" for path in files_of(self._directory, service)]
        }
        depends: dict[str, Any] = {f"{site.name}-{SERVER_NAME}": {"condition": "service_started"}}
        if service.role is Role.BANDWIDTH_PROBE:
            # Of its addresses, that in the site's own network: the other site is not to read its metrics.
            own = {"PRFAAS_HTTP_HOST": SERVER_NAME}
            return found | {"network_mode": f"service:{site.name}-place", "environment": own, "depends_on": depends}
        found["networks"] = {site.name: {"aliases": [service.name]}}
        if service.role is Role.GATEWAY:
            # Ports of an internal network are not published.
            self._networks[f"{site.name}-clients"] = {}
            found["networks"][f"{site.name}-clients"] = {}
            found["ports"] = [f"${{PRFAAS_BIND:-127.0.0.1}}:{service.http_port or HTTP_PORT}:{HTTP_PORT}"]
        if service.role is Role.GATEWAY or service.role in WORKERS:
            found["volumes"] += [_mounted(str(model)) for model in mounted_models(self._description, [service])]
            if prepared_models(self._description, site):
                depends[f"{site.name}-weights"] = {"condition": "service_completed_successfully"}
                found["volumes"].append(f"{site.name}-weights:{CACHE}:ro")
            else:
                found["environment"] = {"PRFAAS_CACHE_DIR": SCRATCH_CACHE}
        return found | {"depends_on": depends}

    def _weights_job(self, site: Site) -> dict[str, Any]:
        self._volumes[f"{site.name}-weights"] = {}
        command = ["python", "-m", "prfaas.engine.weights", *prepared_models(self._description, site)]
        job = _hardened("weights", command, _REAL)
        return job | {"network_mode": "none", "restart": "no", "volumes": [f"{site.name}-weights:{CACHE}"]}


def compose_profiles(description: Description, sites: Sequence[str]) -> str:
    """Returns the profiles that start all services of the sites without an accelerator, as COMPOSE_PROFILES has them."""
    workers = [each for each in description.services if each.site in sites and each.role in WORKERS]
    return ",".join(sorted({"emulated" if is_emulated(worker) else "cpu" for worker in workers}))


def _command(service: Service) -> list[str]:
    return [f"prfaas-{service.role}", "--config", f"{CONTAINER_FOLDER}/{service.site}/{service.name}.toml"]


def _mounted(directory: str) -> dict[str, Any]:
    """Returns the mount of a folder of the host at its own path. One that is missing there is an error, and not made."""
    path = directory.replace("$", "$$")  # compose would take it for a variable
    return {"type": "bind", "source": path, "target": path, "read_only": True, "bind": {"create_host_path": False}}


def _link_flags(link: Link) -> list[str]:
    shape: Mapping[str, Any] = msgspec.to_builtins(link)
    return [word for key, value in shape.items() if key != "between" and value is not None for word in (f"--{key}", str(value))]


def _hardened(image: str, command: Sequence[str], limits: Limits) -> dict[str, Any]:
    """Returns what every container has: no right to anything but its own files, and bounds."""
    return {
        "image": _IMAGE % image,
        "command": list(command),
        "read_only": True,
        "tmpfs": ["/tmp:size=64m,mode=1777"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "cpus": limits.cpus,
        "mem_limit": f"{limits.memory_mib}m",
        "pids_limit": limits.pids,
        "stop_grace_period": f"{STOP_GRACE_S}s",
        "restart": "unless-stopped",
    }


def write_compose(description: Description, sites: Sequence[str], directory: Path) -> list[Path]:
    """Writes `compose.yaml` and the `.env` with its profiles, and returns them."""
    file, environ = directory / "compose.yaml", directory / ".env"
    file.write_text(render_compose(description, sites, directory))
    environ.write_text(f"COMPOSE_PROFILES={compose_profiles(description, sites)}\n")
    return [file, environ]
