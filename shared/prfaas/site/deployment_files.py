"""All secrets of a deployment in one folder, and the configuration of each server.

The folder holds `authority/`, and for each site `<site>/keys/` and `<site>/server.conf`.
"""

import os
from pathlib import Path
from typing import NamedTuple

from prfaas.secrets.secret_files import make_private_directory, write_secret
from prfaas.site.certificates import Authority
from prfaas.site.permissions import service_permissions
from prfaas.site.sealing_keys import make_sealing_files
from prfaas.site.server_ports import ServerPorts
from prfaas.site.site_config import ACCOUNTS, LEAF_ACCOUNTS, render_site
from prfaas.site.site_keys import SiteKeys
from prfaas.site.sites import AUTHORITY_FOLDER, Description, DescriptionError, Site


class Made(NamedTuple):
    """Secret files after a run, relative to the folder."""

    new: list[Path]
    kept: list[Path]


def keys_of_sites(description: Description, directory: Path) -> dict[str, SiteKeys]:
    """Returns the keys by site. Each is made when it is first asked for, and never again."""
    authority = Authority(directory / AUTHORITY_FOLDER)
    return {
        site.name: SiteKeys(directory / site.name, authority, (site.host, "localhost", "127.0.0.1")) for site in description.sites
    }


def make_all_keys(description: Description, directory: Path) -> Made:
    """Makes the keys and certificates that the sites' servers and services need and that are not there yet.

    Raises OSError, and AuthorityError when a certificate is needed and the authority's key is not there."""
    before = _secrets(directory)
    keys = keys_of_sites(description, directory)
    make_private_directory(directory)
    for site in description.sites:
        make_private_directory(directory / site.name)
        for account in ACCOUNTS:
            keys[site.name].operator(account)
        for dialled in site.dials:
            for account in LEAF_ACCOUNTS:
                keys[site.name].leaf(account, dialled)
        if needs_certificate(description, site):
            keys[site.name].certificate()
    for service in description.services:
        for account in service_permissions(description, service):
            keys[service.site].service(service.name, account)
    make_sealing_files(description, directory)
    after = _secrets(directory)
    return Made(new=sorted(after - before), kept=sorted(after & before))


def needs_certificate(description: Description, site: Site) -> bool:
    """Tells whether the site's server speaks TLS with its own clients, or with a site at either end of a leaf connection."""
    is_dialled = any(site.name in other.dials for other in description.sites)
    listens = is_dialled and description.tls(site.name)
    return site.client_tls or listens or any(description.tls(dialled) for dialled in site.dials)


def write_server_config(description: Description, site: Site, directory: Path) -> Path:
    """Writes `<site>/server.conf`, which names the other files by where they lie now.

    Raises DescriptionError for a port that is to be picked at the start: other hosts could not know it."""
    addresses: dict[str, tuple[str, int]] = {}
    for dialled in (description.site(name) for name in site.dials):
        if not dialled.leaf_port:
            raise DescriptionError(f"site {site.name} dials {dialled.name}, which has no `leaf-port`")
        addresses[dialled.name] = (dialled.host, dialled.leaf_port)
    for key, port in (("client-port", site.client_port), ("leaf-port", site.leaf_port)):
        if not port and (key == "client-port" or any(site.name in other.dials for other in description.sites)):
            raise DescriptionError(f"site {site.name} has no `{key}`")
    keys = keys_of_sites(description, directory)
    ports = ServerPorts(site.client_port, site.leaf_port, site.monitor_port)
    path = directory / site.name / "server.conf"
    # It holds the seeds with which the server dials other sites.
    write_secret(path, render_site(description, site, ports, directory / site.name / "store", keys, addresses).encode())
    return path


def _secrets(directory: Path) -> set[Path]:
    found = [Path(folder) / name for folder, _, names in os.walk(directory) for name in names]
    return {path.relative_to(directory) for path in found if path.suffix in (".nk", ".pem", ".key", ".pub")}
