"""The nats-server configuration of one site, from the description.

Accounts: CTL for control messages, jobs and heartbeats; BULK for KV; SYS for monitoring. CTL and BULK have leaf connections of
their own, so that a full window of KV is never in front of a control message.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from infra.nats_server import ServerPorts
from infra.site_keys import SiteKeys
from infra.sites import Description, Site
from prfaas.contracts import subjects

LEAF_ACCOUNTS = ("ctl", "bulk")
ACCOUNTS = (*LEAF_ACCOUNTS, "sys")
_WRITE_DEADLINE = "10s"
_RECONNECT = "500ms"
_PING_INTERVAL, _PING_MAX = "5s", 2
"""A half-open link is noticed within 15 s, instead of the default's 6 minutes."""


def leaf_permissions(account: str, own: str, dialler: str) -> dict[str, list[str]]:
    """What crosses from a site that dials in (`publish`) and to it (`subscribe`): subjects that carry the receiving site's name,
    and replies."""
    crossing = _bulk_subjects if account == "bulk" else _control_subjects
    return {"publish": [*crossing(own), "_INBOX.>"], "subscribe": [*crossing(dialler), "_INBOX.>"]}


def _bulk_subjects(site: str) -> list[str]:
    return [f"prfaas.{site}.>", f"$O.{subjects.kv_bucket(site)}.>"]


def _control_subjects(site: str) -> list[str]:
    # Between two domains the server lets no plain $KV subject pass, only what names the domain.
    buckets = (subjects.workers_bucket(site), subjects.links_bucket(site))
    return [f"prfaas.{site}.>", f"jobs.{site}.>", *(f"$JS.{site}.API.$KV.{bucket}.>" for bucket in buckets)]


def render_site(
    description: Description,
    site: Site,
    ports: ServerPorts,
    store: Path,
    keys: Mapping[str, SiteKeys],
    leaf_addresses: Mapping[str, tuple[str, int]],
) -> str:
    """`leaf_addresses`: where this site reaches the leaf port of each site that it dials, through the emulated link if any."""
    diallers = [other.name for other in description.sites if site.name in other.dials]

    def users(account: str) -> list[str]:
        lines = [f'{{ nkey: {keys[site.name].service(account).public}, allowed_connection_types: ["STANDARD"] }}']
        for dialler in diallers if account in LEAF_ACCOUNTS else []:
            permissions = json.dumps(leaf_permissions(account, site.name, dialler))
            public = keys[dialler].leaf(account, site.name).public
            lines.append(f'{{ nkey: {public}, allowed_connection_types: ["LEAFNODE"], permissions: {permissions} }}')
        return lines

    def block(account: str) -> str:
        jetstream = ""
        if account == "ctl":  # what it holds must outlive a restart
            jetstream = f"    jetstream: {{ max_memory: 0, max_file: {site.max_file_bytes // 4} }}\n"
        elif account == "bulk":
            jetstream = f"    jetstream: {{ max_memory: {site.max_memory_bytes}, max_file: {site.max_file_bytes // 4 * 3} }}\n"
        lines = "".join(f"      {line}\n" for line in users(account))
        return f"  {account.upper()} {{\n{jetstream}    users: [\n{lines}    ]\n  }}\n"

    def remotes(dialled: str) -> str:
        host, port = leaf_addresses[dialled]
        return "".join(
            f'    {{ url: "nats://{host}:{port}", account: {account.upper()}, compression: off,'
            f" nkey: {keys[site.name].leaf(account, dialled).seed} }}\n"
            for account in LEAF_ACCOUNTS
        )

    dials = "".join(remotes(dialled) for dialled in site.dials)
    # A site that nobody dials has no leaf port at all. Advertised, a leaf connection that breaks would come back directly, past
    # the address that the description has for it.
    listen = f"  host: 127.0.0.1\n  port: {ports.leaf or -1}\n  no_advertise: true\n" if diallers else ""
    return (
        f"server_name: {site.name}\n"
        f"host: 127.0.0.1\n"
        f"port: {ports.client or -1}\n"
        f'http: "127.0.0.1:{ports.monitor or -1}"\n'
        f"max_payload: {site.max_payload_bytes}\n"
        f'write_deadline: "{_WRITE_DEADLINE}"\n'
        f'ping_interval: "{_PING_INTERVAL}"\n'
        f"ping_max: {_PING_MAX}\n"
        f"jetstream {{\n"
        f'  store_dir: "{store}"\n'
        f"  domain: {site.name}\n"
        f"  max_memory_store: {site.max_memory_bytes}\n"
        f"  max_file_store: {site.max_file_bytes}\n"
        f"}}\n"
        f"accounts {{\n{''.join(block(account) for account in ACCOUNTS)}}}\n"
        f"system_account: SYS\n"
        f"leafnodes {{\n{listen}"
        f"  compression: off\n"
        f'  reconnect: "{_RECONNECT}"\n' + (f"  remotes: [\n{dials}  ]\n" if dials else "") + "}\n"
    )
