"""Files and addresses of a site as its containers see them.

Each process gets its own configuration and secrets, and no others.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from prfaas.site.sites import Description, DescriptionError, Role, Service, Site

CONTAINER_FOLDER = Path("/etc/prfaas")
"""Folder that holds the folders of the sites in a container."""
STORE, CACHE = "/var/lib/prfaas", "/var/cache/prfaas"
CLIENT_PORT, LEAF_PORT, MONITOR_PORT, HTTP_PORT = 4222, 7422, 8222, 8000
SERVER_NAME = "nats"
"""Name of a site's server in the site's own network."""
WORKERS = (Role.PREFILL_WORKER, Role.DECODE_WORKER)
SCRATCH_CACHE = "/tmp/prfaas"
"""Cache of processes without a volume of prepared weights, which write the few files that they keep themselves."""


def in_containers(description: Description) -> Description:
    """Returns the description with the addresses, ports and folders that its sites have in containers.

    `host` stays: it is where other machines reach the site. Raises DescriptionError for a site with several servers, and for a
    model that containers cannot have."""

    def placed(site: Site) -> Site:
        if site.servers:
            raise DescriptionError(f"site {site.name} has several servers, and containers are rendered for one: describe one")
        return msgspec.structs.replace(
            site,
            client_host=SERVER_NAME,
            listen_host="0.0.0.0",
            store_directory=STORE,
            client_port=CLIENT_PORT,
            leaf_port=site.leaf_port or LEAF_PORT,
            monitor_port=MONITOR_PORT,
        )

    mounted_models(description, description.services)
    return msgspec.structs.replace(description, sites=tuple(map(placed, description.sites)))


def is_emulated(service: Service) -> bool:
    """Tells whether a worker's engine needs neither weights nor torch."""
    return bool(service.config.get("engine", {}).get("engine") == "emulated")


def prepared_models(description: Description, site: Site) -> list[str]:
    """Returns the models, by name, whose weights the workers of the site find in the volume that a job fills."""
    workers = [each for each in description.services if each.site == site.name and each.role in WORKERS and not is_emulated(each)]
    return sorted({model for each in workers for model in _models_of(description, each) if not _is_path(model)})


def mounted_models(description: Description, services: Iterable[Service]) -> list[PurePosixPath]:
    """Returns the directories of models that the services read where they lie, in their hosts as in their containers.

    Raises DescriptionError for a model that is neither such a directory nor known by its name."""
    references = sorted({model for each in services for model in _models_of(description, each) if _is_path(model)})
    return [_mountable(reference) for reference in references]


def _models_of(description: Description, service: Service) -> list[str]:
    """Returns references to the models that a service reads. Its `config` wins over the description, as in its file."""
    own = service.model or description.model
    if service.role is Role.GATEWAY:
        return list(service.config.get("models", [own]))
    return [service.config.get("engine", {}).get("model", own)] if service.role in WORKERS else []


def _is_path(model: str) -> bool:
    return "/" in model or model in (".", "..")


def _mountable(reference: str) -> PurePosixPath:
    path = PurePosixPath(reference)
    if not path.is_absolute() or ".." in path.parts:
        raise DescriptionError(
            f"containers cannot have the model {reference!r}: expected is the absolute path of its directory, without `..`, "
            "which they mount; they reach no repository of a hub"
        )
    for taken in (CONTAINER_FOLDER, PurePosixPath(STORE), PurePosixPath(CACHE)):
        if path.is_relative_to(taken) or taken.is_relative_to(path):
            raise DescriptionError(f"containers cannot mount the model's directory {path}: they have a {taken} of their own")
    return path


def files_of(directory: Path, service: Service) -> list[str]:
    """Returns the files that a service reads, relative to the folder of the sites: its configuration and what that one names."""
    config = Path(service.site, f"{service.name}.toml")
    return [str(config), *_inside(_strings(tomllib.loads((directory / config).read_text())))]


def server_files(directory: Path, site: Site) -> list[str]:
    """Returns the files that a site's server reads, likewise."""
    config = Path(site.name, "server.conf")
    return [str(config), *_inside(re.findall(r'"(/[^"]+)"', (directory / config).read_text()))]


def _inside(named: Iterator[str] | list[str]) -> list[str]:
    found = {Path(value) for value in named}
    return sorted(str(path.relative_to(CONTAINER_FOLDER)) for path in found if path.is_relative_to(CONTAINER_FOLDER))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
