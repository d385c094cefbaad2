"""`prfaas site compose` and `prfaas site kubernetes`: everything that runs sites in containers, from their description."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from prfaas.site.compose import for_compose, write_compose
from prfaas.site.container_files import CONTAINER_FOLDER, in_containers
from prfaas.site.deployment_files import make_all_keys
from prfaas.site.kubernetes_files import COMPONENTS, write_kubernetes
from prfaas.site.render import render_site_files
from prfaas.site.sites import Description, Site, load_description


def add_container_actions(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> list[argparse.ArgumentParser]:
    compose = actions.add_parser("compose", help="make keys, configurations and a compose file")
    kubernetes = actions.add_parser("kubernetes", help="make keys, configurations and a kustomization per site")
    for action in (compose, kubernetes):
        action.add_argument("sites_named", nargs="*", metavar="SITE", help="default: all of the description")
    kubernetes.add_argument("--images", default="prfaas", metavar="REPOSITORY", help="what stands before the images' names")
    kubernetes.add_argument("--tag", default="latest", help="of the images; default: %(default)s")
    kubernetes.add_argument("--with", dest="components", action="append", default=[], choices=COMPONENTS, help="may be repeated")
    return [compose, kubernetes]


def compose(arguments: argparse.Namespace, directory: Path) -> None:
    """Writes the files of the named sites and a compose file beside their folders. Raises DescriptionError, AuthorityError."""
    description = for_compose(in_containers(load_description(arguments.sites)))
    sites = _make_files(description, arguments.sites_named, directory)
    names = [site.name for site in sites]
    print(f"Wrote {' and '.join(map(str, write_compose(description, names, directory)))}.")
    print(f"Containers run as user 10001: `chown -R 10001:10001 {' '.join(str(directory / name) for name in names)}`.")
    print(f"Then `docker compose --file {directory / 'compose.yaml'} up --detach`, or the same with podman-compose.")


def kubernetes(arguments: argparse.Namespace, directory: Path) -> None:
    """Writes the files of the named sites and a kustomization of each. Raises DescriptionError, AuthorityError."""
    description = in_containers(load_description(arguments.sites))
    for site in _make_files(description, arguments.sites_named, directory):
        write_kubernetes(
            description, site, directory, images=arguments.images, tag=arguments.tag, components=arguments.components
        )
        print(f"Site {site.name}: `kubectl apply --kustomize {directory / site.name}`.")


def _make_files(description: Description, names: Sequence[str], directory: Path) -> list[Site]:
    """Makes what keys are missing and writes the configurations of the named sites, of all when none is named."""
    sites = [description.site(name) for name in names] or list(description.sites)
    made = make_all_keys(description, directory)
    print(f"Made {len(made.new)} keys and certificates, kept {len(made.kept)}.")
    for site in sites:
        written = render_site_files(description, site, directory, lies_at=CONTAINER_FOLDER)
        print(f"Wrote {len(written)} files into {directory / site.name}.")
    return sites
