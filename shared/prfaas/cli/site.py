"""Make keys, certificates and nats-server configurations for the sites of one description.

`init` makes what is not there yet and never replaces a key, so it also adds a site or a service that is new in the description.
`renew` signs a new certificate for a site's server. `check` lists what others than the owner can read.
"""

import argparse
import shlex
import stat
from pathlib import Path

from prfaas.cli import UsageError
from prfaas.secrets.secret_files import readable_by_others
from prfaas.site.certificates import AuthorityError
from prfaas.site.deployment_files import Made, keys_of_sites, make_all_keys, needs_certificate, write_server_config
from prfaas.site.sites import AUTHORITY_FOLDER, Description, DescriptionError, Site, is_loopback, load_description


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="init | renew | check")
    init = actions.add_parser("init", help="make keys, certificates and server configurations")
    renew = actions.add_parser("renew", help="sign a new certificate for a site's server")
    renew.add_argument("site")
    check = actions.add_parser("check", help="list what others can read; fails if there is something")
    for action in (init, renew):
        action.add_argument("--sites", type=Path, default=Path("sites.toml"), help="the description; default: %(default)s")
    for action in (init, renew, check):
        action.add_argument("--directory", type=Path, default=Path("prfaas-sites"), help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    directory: Path = arguments.directory.absolute()
    try:
        match arguments.action:
            case "init":
                _init(load_description(arguments.sites), directory)
            case "renew":
                _renew(load_description(arguments.sites), arguments.site, directory)
            case _:
                return _check(directory)
    except (DescriptionError, AuthorityError) as error:
        raise UsageError(f"{error}.") from error
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}.") from error
    return 0


def _init(description: Description, directory: Path) -> None:
    made = make_all_keys(description, directory)
    print(_what_was_made(made, directory))
    for site in description.sites:
        print(f"\nSite {site.name} ({site.host}):")
        for sentence in _of_site(description, site, directory):
            print(f"  {sentence}")
    if (directory / AUTHORITY_FOLDER).exists():
        authority = directory / AUTHORITY_FOLDER
        print(f"\nKeep {authority} to yourself, best on none of the hosts: its key signs certificates. No process needs it.")


def _what_was_made(made: Made, directory: Path) -> str:
    kept = f"Kept {len(made.kept)} keys and certificates that were there. " if made.kept else ""
    if not made.new:
        return f"{directory}: {kept}Nothing was missing."
    return f"{directory}: {kept}Made {len(made.new)}: {', '.join(map(str, made.new))}."


def _of_site(description: Description, site: Site, directory: Path) -> list[str]:
    folder = directory / site.name
    sentences: list[str] = []
    try:
        config = write_server_config(description, site, directory)
        sentences.append(f"Wrote {config}. Start its server with `nats-server -c {shlex.quote(str(config))}`.")
    except DescriptionError as error:
        sentences.append(f"No server.conf was written: {error}.")
    if not is_loopback(site.host):
        target = shlex.quote(f"root@{site.host}:{directory}/")
        sentences.append(f"Copy {folder} to {site.host}, to the same path: `rsync -a {shlex.quote(str(folder))} {target}`.")
    if needs_certificate(description, site):
        certificate = keys_of_sites(description, directory)[site.name].certificate()
        missing = sorted({site.host} - set(certificate.hosts()))
        if missing:
            sentences.append(
                f"Its certificate is not for {missing[0]}: `prfaas site renew {site.name}` signs one for the hosts that the "
                "description has now."
            )
        sentences.append(f"Its certificate ends on {certificate.ends_at():%Y-%m-%d}.")
    return sentences


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
