"""Make keys, certificates and all configurations for the sites of one description.

`init` makes what is not there yet and never replaces a key, so it also serves a site or a service that is new in the description.
`render` writes configurations and systemd units again. `compose` and `kubernetes` do as `init` for sites in containers, and write
what runs them there. `add` writes one more site into the description, or begins one, then does as `init`.
`rotate` takes one of the three steps that replace all users' keys. `renew` signs a new certificate for a site's server.
`check` lists what others than the owner can read.
"""

import argparse
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path

from prfaas.cli import UsageError
from prfaas.cli.site_containers import add_container_actions, compose, kubernetes
from prfaas.secrets.secret_files import readable_by_others
from prfaas.site.certificates import AuthorityError
from prfaas.site.deployment_files import Made, keys_of_sites, make_all_keys, needs_certificate
from prfaas.site.key_rotation import RotationOrderError, RotationStep, take_step
from prfaas.site.new_site import add_site
from prfaas.site.render import UNITS_FOLDER, render_site_files
from prfaas.site.sites import AUTHORITY_FOLDER, Description, DescriptionError, Site, SiteKind, is_loopback, load_description
from prfaas.site.systemd_units import USER

DEFAULT_MODEL = "gemma-3-270m"
_AFTER = {
    RotationStep.ADD: "Then `prfaas site rotate use`.",
    RotationStep.USE: "Processes connect again by themselves. When `connz?auth=1` of every server shows no old key, `prfaas site "
    "rotate drop`.",
    RotationStep.DROP: "Then the rotation is over.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    metavar = "init | render | compose | kubernetes | add | rotate | renew | check"
    actions = parser.add_subparsers(dest="action", required=True, metavar=metavar)
    init = actions.add_parser("init", help="make keys, certificates and configurations")
    render = actions.add_parser("render", help="write configurations and systemd units again")
    render.add_argument("sites_named", nargs="*", metavar="SITE", help="default: all of the description")
    add = actions.add_parser("add", help="write one more site into the description, and make its files")
    add.add_argument("name")
    add.add_argument("--kind", choices=[str(kind) for kind in SiteKind], required=True)
    add.add_argument("--host", required=True, help="name or address under which other sites reach it")
    add.add_argument("--model", default=DEFAULT_MODEL, help="of a description that is begun; default: %(default)s")
    add.add_argument("--dials", metavar="SITE", action="append", default=[], help="a site that its server dials; may be repeated")
    containers = add_container_actions(actions)
    rotate = actions.add_parser("rotate", help="take one step of replacing all users' keys")
    rotate.add_argument("step", choices=[str(step) for step in RotationStep])
    renew = actions.add_parser("renew", help="sign a new certificate for a site's server")
    renew.add_argument("site")
    check = actions.add_parser("check", help="list what others can read; fails if there is something")
    for action in (init, render, *containers, add, rotate, renew):
        action.add_argument("--sites", type=Path, default=Path("sites.toml"), help="the description; default: %(default)s")
    for action in (init, render, *containers, add, rotate, renew, check):
        action.add_argument("--directory", type=Path, default=Path("prfaas-sites"), help="default: %(default)s")
    for action in (init, render, add, rotate):
        action.add_argument("--at", type=Path, help="where the folder will lie on the hosts; default: where it is made")
        action.add_argument("--programs", type=Path, help="folder of the programs on the hosts; default: this environment's own")


def run(arguments: argparse.Namespace) -> int:
    directory: Path = arguments.directory.absolute()
    try:
        match arguments.action:
            case "init":
                _init(load_description(arguments.sites), directory, arguments)
            case "render":
                _render(load_description(arguments.sites), arguments.sites_named, directory, arguments)
            case "compose":
                compose(arguments, directory)
            case "kubernetes":
                kubernetes(arguments, directory)
            case "add":
                kind = SiteKind(arguments.kind)
                add_site(arguments.sites, arguments.name, kind, arguments.host, arguments.dials, arguments.model)
                print(f"Site {arguments.name} is in {arguments.sites}.")
                _init(load_description(arguments.sites), directory, arguments)
            case "rotate":
                _rotate(load_description(arguments.sites), RotationStep(arguments.step), directory, arguments)
            case "renew":
                _renew(load_description(arguments.sites), arguments.site, directory)
            case _:
                return _check(directory)
    except (DescriptionError, AuthorityError, RotationOrderError) as error:
        raise UsageError(f"{error}.") from error
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}.") from error
    return 0


def _init(description: Description, directory: Path, arguments: argparse.Namespace) -> None:
    made = make_all_keys(description, directory)
    print(_what_was_made(made, directory))
    for site in description.sites:
        print(f"\nSite {site.name} ({site.host}):")
        for sentence in _of_site(description, site, directory, arguments):
            print(f"  {sentence}")
    if (directory / AUTHORITY_FOLDER).exists():
        authority = directory / AUTHORITY_FOLDER
        print(f"\nKeep {authority} to yourself, best on none of the hosts: its key signs certificates. No process needs it.")


def _render(description: Description, names: Sequence[str], directory: Path, arguments: argparse.Namespace) -> None:
    for site in [description.site(name) for name in names] or description.sites:
        written = render_site_files(description, site, directory, lies_at=arguments.at, programs=arguments.programs)
        print(f"Wrote {len(written)} files of site {site.name} into {directory / site.name}.")


def _rotate(description: Description, step: RotationStep, directory: Path, arguments: argparse.Namespace) -> None:
    keys = keys_of_sites(description, directory)
    take_step(step, [file for site in keys.values() for file in site.seed_files()])
    _render(description, [], directory, arguments)
    print(f"Copy the folders of all sites to their hosts and send each nats-server SIGHUP. {_AFTER[step]}")


def _what_was_made(made: Made, directory: Path) -> str:
    kept = f"Kept {len(made.kept)} keys and certificates that were there. " if made.kept else ""
    if not made.new:
        return f"{directory}: {kept}Nothing was missing."
    return f"{directory}: {kept}Made {len(made.new)}: {', '.join(map(str, made.new))}."


def _of_site(description: Description, site: Site, directory: Path, arguments: argparse.Namespace) -> list[str]:
    folder = directory / site.name
    target = (arguments.at or directory) / site.name
    sentences: list[str] = []
    try:
        written = render_site_files(description, site, directory, lies_at=arguments.at, programs=arguments.programs)
        sentences.append(f"Wrote {len(written)} files into {folder}.")
        sentences += [
            f"Start {path.stem} by hand with `nats-server -c {shlex.quote(str(target / path.name))}`; units for systemd are in "
            f"{UNITS_FOLDER}/."
            for path in written
            if path.suffix == ".conf"
        ]
    except DescriptionError as error:
        sentences.append(f"No configuration was written: {error}.")
    hosts = dict.fromkeys(server.host for server in site.named_servers().values())
    for host in hosts:
        if not is_loopback(host):
            place = shlex.quote(f"root@{host}:{target}/")
            sentences.append(
                f"Copy {folder} to {host}, to {_same_or(folder, target)}: "
                f"`rsync -a --chown={USER}:{USER} {shlex.quote(str(folder))}/ {place}`."
            )
    if needs_certificate(description, site):
        certificate = keys_of_sites(description, directory)[site.name].certificate()
        missing = sorted(set(site.certificate_hosts()) - set(certificate.hosts()))
        if missing:
            sentences.append(
                f"Its certificate is not for {missing[0]}: `prfaas site renew {site.name}` signs one for the hosts that the "
                "description has now."
            )
        sentences.append(f"Its certificate ends on {certificate.ends_at():%Y-%m-%d}.")
    return sentences


def _same_or(folder: Path, target: Path) -> str:
    return "the same path" if folder == target else str(target)


def _renew(description: Description, name: str, directory: Path) -> None:
    site = description.site(name)
    if not needs_certificate(description, site):
        raise DescriptionError(f"site {name} needs no certificate: none of its connections is encrypted")
    certificate = keys_of_sites(description, directory)[name].renew_certificate()
    print(
        f"{certificate.certificate_file} is for {site.host} and ends on {certificate.ends_at():%Y-%m-%d}. Copy it and "
        f"{certificate.key_file.name} beside it to {site.host} and send its nats-server SIGHUP: connections that are open stay."
    )


def _check(directory: Path) -> int:
    if not directory.is_dir():
        raise UsageError(f"{directory} is no folder.")
    found = list(readable_by_others(directory))
    for path in found:
        print(f"{stat.S_IMODE(path.lstat().st_mode):04o} {path}")
    return 1 if found else 0
