"""Everything that runs one site, written from the description: configurations of its servers and services, and systemd units.

`make up`, `prfaas up`, containers and hosts of their own take their configurations from here.
"""

import sys
from pathlib import Path

import tomli_w

from prfaas.secrets.secret_files import make_private_directory, write_secret
from prfaas.site.deployment_files import keys_of_sites
from prfaas.site.file_places import FilePlaces
from prfaas.site.server_ports import ServerPorts
from prfaas.site.service_settings import Surroundings, service_settings
from prfaas.site.site_config import Wiring, render_server
from prfaas.site.sites import Description, DescriptionError, Server, Site
from prfaas.site.systemd_units import (
    server_unit,
    server_unit_name,
    service_unit,
    service_unit_name,
    target_name,
    target_unit,
)

UNITS_FOLDER = "systemd"


def render_site_files(
    description: Description, site: Site, directory: Path, *, lies_at: Path | None = None, programs: Path | None = None
) -> list[Path]:
    """Writes the files of one site into `directory/<site>`, mode 0600, and returns their paths.

    Paths inside the files begin with `lies_at`, where the folder will lie; unset it is `directory`. `programs` is the folder of
    the programs there; unset it is this interpreter's own. Keys are made that are not there yet.
    Raises DescriptionError for a port that is to be picked at the start: other hosts could not know it."""
    _check_ports(description, site)
    places = FilePlaces(directory, lies_at or directory)
    programs = programs or Path(sys.executable).parent
    texts = _servers(description, site, places) | _services(description, site, places)
    texts |= _units(description, site, places, programs)
    folder = directory / site.name
    for path in (folder, folder / UNITS_FOLDER):
        make_private_directory(path)
    for name, text in texts.items():
        write_secret(folder / name, text.encode())
    return [folder / name for name in texts]


def config_name(site: Site, server: str) -> str:
    """Returns the file name of a server's configuration."""
    return "server.conf" if len(site.server_names) == 1 else f"server{server.removeprefix(site.name)}.conf"


def store_of(site: Site, server: str, places: FilePlaces) -> Path:
    """Returns the folder of a server's JetStream files, as the server sees it."""
    base = Path(site.store_directory) if site.store_directory else places.lies_at / site.name / "store"
    return base if len(site.server_names) == 1 else base / server


def _check_ports(description: Description, site: Site) -> None:
    for dialled in (description.site(name) for name in site.dials):
        if not all(server.leaf_port for server in dialled.named_servers().values()):
            raise DescriptionError(f"site {site.name} dials {dialled.name}, which has no `leaf-port`")
    wanted = ["client_port"]
    wanted += ["leaf_port"] if any(site.name in other.dials for other in description.sites) else []
    wanted += ["cluster_port"] if len(site.server_names) > 1 else []
    for name, server in site.named_servers().items():
        for key in wanted:
            if not getattr(server, key):
                whose = f"site {site.name}" if len(site.server_names) == 1 else f"server {name} of site {site.name}"
                raise DescriptionError(f"{whose} has no `{key.replace('_', '-')}`")


def _servers(description: Description, site: Site, places: FilePlaces) -> dict[str, str]:
    keys = keys_of_sites(description, places.made_in)
    servers = site.named_servers()
    leafs = {dialled: _leaf_addresses(description.site(dialled)) for dialled in site.dials}
    texts = {}
    for name, server in servers.items():
        routes = [(other.client_host, other.cluster_port) for other in servers.values() if other is not server]
        ports = ServerPorts(server.client_port or 0, server.leaf_port or 0, server.monitor_port or 0, server.cluster_port)
        wiring = Wiring(ports, store_of(site, name, places), keys, leafs, routes, places.final)
        texts[config_name(site, name)] = render_server(description, site, name, wiring)
    return texts


def _services(description: Description, site: Site, places: FilePlaces) -> dict[str, str]:
    around = Surroundings(
        places=places,
        keys=keys_of_sites(description, places.made_in),
        servers=[(server.client_host, server.client_port or 0) for server in site.named_servers().values()],
        leafs={dialled: _leaf_addresses(description.site(dialled))[0] for dialled in site.dials},
    )
    own = [service for service in description.services if service.site == site.name]
    return {f"{each.name}.toml": tomli_w.dumps(service_settings(description, each, around)) for each in own}


def _units(description: Description, site: Site, places: FilePlaces, programs: Path) -> dict[str, str]:
    folder = places.lies_at / site.name
    units = {target_name(site): target_unit(site)}
    for name in site.server_names:
        store = store_of(site, name, places)
        units[server_unit_name(name)] = server_unit(site, name, folder / config_name(site, name), store, programs)
    for service in description.services:
        if service.site == site.name:
            units[service_unit_name(service)] = service_unit(site, service, folder / f"{service.name}.toml", programs)
    return {f"{UNITS_FOLDER}/{name}": text for name, text in units.items()}


def _leaf_addresses(site: Site) -> list[tuple[str, int]]:
    return [_leaf_address(server) for server in site.named_servers().values()]


def _leaf_address(server: Server) -> tuple[str, int]:
    return server.host, server.leaf_port or 0
