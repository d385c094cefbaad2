"""All secrets of a deployment in one folder, which holds `authority/`, and for each site `<site>/keys/`."""

import os
from pathlib import Path
from typing import NamedTuple

from prfaas.secrets.secret_files import make_private_directory
from prfaas.site.certificates import Authority
from prfaas.site.permissions import service_permissions
from prfaas.site.sealing_keys import make_sealing_files
from prfaas.site.site_config import ACCOUNTS, LEAF_ACCOUNTS, encrypts_routes
from prfaas.site.site_keys import SiteKeys
from prfaas.site.sites import AUTHORITY_FOLDER, Description, Site


class Made(NamedTuple):
    """Secret files after a run, relative to the folder."""

    new: list[Path]
    kept: list[Path]


def keys_of_sites(description: Description, directory: Path) -> dict[str, SiteKeys]:
    """Returns the keys by site. Each is made when it is first asked for, and never again."""
    authority = Authority(directory / AUTHORITY_FOLDER)
    return {site.name: SiteKeys(directory / site.name, authority, site.certificate_hosts()) for site in description.sites}


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
        if len(site.server_names) > 1:
            keys[site.name].cluster_secret()
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
    return site.client_tls or encrypts_routes(site) or listens or any(description.tls(dialled) for dialled in site.dials)


def _secrets(directory: Path) -> set[Path]:
    found = [Path(folder) / name for folder, _, names in os.walk(directory) for name in names]
    return {path.relative_to(directory) for path in found if path.suffix in (".nk", ".pem", ".key", ".pub", ".secret")}
