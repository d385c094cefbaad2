"""Make, list and revoke API keys of a gateway's tenants.

The tenants file holds hashes of keys, and the limits of tenants, which may be changed by hand. A running gateway reads it again
when it changes. A key is shown once, when it is made: nothing can show it again.
"""

import argparse
import datetime
from pathlib import Path

import msgspec

from prfaas.cli import UsageError
from prfaas.cli.tables import format_table
from prfaas.secrets.api_keys import make_key
from prfaas.secrets.tenants_file import Limits, TenantsError, add_key, load_tenants, revoke_key

_LIMITS = {
    "requests-per-minute": "requests a minute",
    "tokens-per-minute": "tokens of prompts and answers a minute",
    "requests-at-once": "requests at once",
    "link-bytes-per-day": "bytes of KV a day over links between sites",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="add | list | revoke")
    add = actions.add_parser("add", help="make a key, and the tenant if it is new")
    add.add_argument("tenant")
    for name, help_text in _LIMITS.items():
        add.add_argument(f"--{name}", type=int, metavar="N", help=f"limit of a new tenant: {help_text}; default: none")
    listing = actions.add_parser("list", help="keys and limits of all tenants")
    revoke = actions.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("key_id", metavar="ID", help="the eight characters after `sk-prfaas-`, as `list` shows them")
    for action in (add, listing, revoke):
        action.add_argument(
            "--file", type=Path, default=Path("tenants.toml"), help="the gateway's `tenants-file`; default: %(default)s"
        )


def run(arguments: argparse.Namespace) -> int:
    try:
        match arguments.action:
            case "add":
                _add(arguments)
            case "revoke":
                revoke_key(arguments.file, arguments.key_id, _today())
                print(f"{arguments.file}: key {arguments.key_id} is revoked. A running gateway refuses it within two seconds.")
            case _:
                print(_listing(arguments.file))
    except TenantsError as error:
        raise UsageError(f"{error}.") from error
    return 0


def _add(arguments: argparse.Namespace) -> None:
    given = {name: getattr(arguments, name.replace("-", "_")) for name in _LIMITS}
    try:
        limits = msgspec.convert({name: value for name, value in given.items() if value is not None}, Limits)
    except msgspec.ValidationError as error:
        raise UsageError(f"a limit is out of range: {error}") from error
    key = make_key()
    add_key(arguments.file, key, arguments.tenant, limits, _today())
    print(f"{arguments.file}: key {key.id} of {arguments.tenant}. It is shown this once:\n{key.text}")


def _listing(path: Path) -> str:
    tenants = load_tenants(path)
    rows = [["tenant", "key", "created", "state"]]
    for key in sorted(tenants.keys, key=lambda key: (key.tenant, key.created)):
        rows.append([key.tenant, key.id, str(key.created), "revoked" if key.id in tenants.revoked_ids else "in use"])
    limits = [["tenant", *_LIMITS]]
    for name, of_tenant in sorted(tenants.tenants.items()):
        set_limits = msgspec.to_builtins(of_tenant)
        limits.append([name, *("-" if set_limits[key] is None else str(set_limits[key]) for key in _LIMITS)])
    return f"{format_table(rows)}\n\n{format_table(limits)}"


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()
