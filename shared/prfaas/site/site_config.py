"""The nats-server configurations of one site, from the description. No other module writes one for a site.

Accounts: CTL for control messages, jobs and heartbeats; BULK for KV; SYS for monitoring. CTL and BULK have leaf connections of
their own, so that a full window of KV is never in front of a control message.

A leaf connection ends in an account of its own, `CTL_<site>` or `BULK_<site>`, in both servers. Exports and imports between that
account and CTL or BULK name every subject that may cross, in each direction. So each server decides for itself what the other
side can reach, no matter which side dialled.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prfaas.bus.job_streams import MAX_JOBS_BYTES
from prfaas.site.permissions import Permissions, crossing, service_permissions
from prfaas.site.server_ports import ServerPorts
from prfaas.site.site_keys import Key, SiteKeys, valid_keys
from prfaas.site.sites import Description, Server, Site, is_loopback

LEAF_ACCOUNTS = ("ctl", "bulk")
ACCOUNTS = (*LEAF_ACCOUNTS, "sys")
_WRITE_DEADLINE = "10s"
_RECONNECT = "500ms"
_PING_INTERVAL, _PING_MAX = "5s", 2
"""A half-open link is noticed within 15 s, instead of the default's 6 minutes."""
_CONTROL_MEMORY_BYTES = (64 << 20) + 2 * MAX_JOBS_BYTES
"""JetStream in memory of the control account: presence, and the site's jobs, queued ones and dispatched ones."""
_ROUTE_TLS = 'min_version: "1.3"'
_SECURE_TLS = f"{_ROUTE_TLS}, handshake_first: true"
_ROUTE_USER = "route"


def link_account(account: str, neighbour: str) -> str:
    """Name of the account in which the leaf connection to a neighbour ends."""
    return f"{account.upper()}_{neighbour}"


class Wiring(NamedTuple):
    """Parts of one server's configuration that are not in the description."""

    ports: ServerPorts
    store: Path
    keys: Mapping[str, SiteKeys]
    """Keys by site."""
    leaf_addresses: Mapping[str, Sequence[tuple[str, int]]]
    """Hosts and ports on which this site reaches the servers of each site that it dials."""
    routes: Sequence[tuple[str, int]] = ()
    """Hosts and ports on which the other servers of the cluster are reached."""
    final: Callable[[Path], Path] = lambda path: path
    """Place at which the server will find a file."""


def render_server(description: Description, site: Site, name: str, wiring: Wiring) -> str:
    """Returns the configuration of the site's server of this name."""
    accounts = [_account(description, site, account, wiring.keys) for account in ACCOUNTS]
    accounts += [
        _link_account(description, site, neighbour, account, wiring.keys)
        for neighbour in description.neighbours(site.name)
        for account in LEAF_ACCOUNTS
    ]
    server = site.named_servers()[name]
    return (
        f"server_name: {name}\n"
        f'host: "{server.listen_host}"\n'
        f"port: {wiring.ports.client or -1}\n"
        f'http: "{site.monitor_host}:{wiring.ports.monitor or -1}"\n'
        f"max_payload: {site.max_payload_bytes}\n"
        f'write_deadline: "{_WRITE_DEADLINE}"\n'
        f'ping_interval: "{_PING_INTERVAL}"\n'
        f"ping_max: {_PING_MAX}\n"
        f"{_client_tls(site, wiring)}"
        f"jetstream {{\n"
        f'  store_dir: "{wiring.store}"\n'
        f"  domain: {site.name}\n"
        f"  max_memory_store: {site.max_memory_bytes + _CONTROL_MEMORY_BYTES}\n"
        f"  max_file_store: {site.max_file_bytes}\n"
        f"}}\n"
        f"accounts {{\n{''.join(accounts)}}}\n"
        f"system_account: SYS\n"
        f"{_cluster(site, server, wiring)}"
        f"{_leafnodes(description, site, server, wiring)}"
    )


def encrypts_routes(site: Site) -> bool:
    """Tells whether the servers of the site's cluster speak TLS with one another."""
    return len(site.servers) > 1 and not all(is_loopback(server.client_host) for server in site.named_servers().values())


def _account(description: Description, site: Site, account: str, keys: Mapping[str, SiteKeys]) -> str:
    """Renders CTL, BULK or SYS: its users, and the subjects that pass between it and the link accounts."""
    jetstream = ""
    # In a cluster an account's limits count each replica, and hold for all servers together.
    servers = len(site.server_names)
    if account == "ctl":  # jobs, who leads and who is there must not need a disk
        jetstream = _limits(_CONTROL_MEMORY_BYTES * servers, site.max_file_bytes // 4 * servers)
    elif account == "bulk":
        jetstream = _limits(site.max_memory_bytes * servers, site.max_file_bytes // 4 * 3 * servers)
    users = _users(keys[site.name].operator(account), "STANDARD")
    for service in [each for each in description.services if each.site == site.name]:
        permissions = service_permissions(description, service).get(account)
        if permissions is not None:
            users += _users(keys[site.name].service(service.name, account), "STANDARD", permissions)
    exports: list[str] = []
    imports: list[str] = []
    for neighbour in description.neighbours(site.name) if account in LEAF_ACCOUNTS else []:
        leaf = link_account(account, neighbour.name)
        out = crossing(description, site, neighbour)[account]
        into = crossing(description, neighbour, site)[account]
        exports += [_export("stream", subject, leaf) for subject in out.messages]
        exports += [_export("service", subject, leaf) for subject in into.requests]
        imports += [_import("stream", subject, leaf) for subject in into.messages]
        imports += [_import("service", subject, leaf) for subject in out.requests]
    return _account_block(account.upper(), jetstream, users, exports, imports)


def _limits(max_memory_bytes: int, max_file_bytes: int) -> str:
    return f"    jetstream: {{ max_memory: {max_memory_bytes}, max_file: {max_file_bytes} }}\n"


def _link_account(description: Description, site: Site, neighbour: Site, account: str, keys: Mapping[str, SiteKeys]) -> str:
    """Renders the account of one leaf connection. It has no JetStream, and no way to a subject that is not listed."""
    main = account.upper()
    out = crossing(description, site, neighbour)[account]
    into = crossing(description, neighbour, site)[account]
    exports = [_export("stream", subject, main) for subject in into.messages]
    exports += [_export("service", subject, main) for subject in out.requests]
    imports = [_import("stream", subject, main) for subject in out.messages]
    imports += [_import("service", subject, main) for subject in into.requests]
    dialled_by = site.name in neighbour.dials
    users = _users(keys[neighbour.name].leaf(account, site.name), "LEAFNODE") if dialled_by else []
    return _account_block(link_account(account, neighbour.name), "", users, exports, imports)


def _account_block(name: str, jetstream: str, users: list[str], exports: list[str], imports: list[str]) -> str:
    def block(key: str, lines: list[str]) -> str:
        return f"    {key}: [\n{''.join(f'      {line}' + chr(10) for line in lines)}    ]\n" if lines else ""

    return f'  "{name}" {{\n{jetstream}{block("users", users)}{block("exports", exports)}{block("imports", imports)}  }}\n'


def _users(key: Key, connection_type: str, permissions: Permissions | None = None) -> list[str]:
    """Renders one user: two while its key is rotated."""
    allowed = (
        "" if permissions is None else f", permissions: {json.dumps({k: list(v) for k, v in permissions._asdict().items()})}"
    )
    return [f'{{ nkey: {each.public}, allowed_connection_types: ["{connection_type}"]{allowed} }}' for each in valid_keys(key)]


def _export(kind: str, subject: str, account: str) -> str:
    return f'{{ {kind}: "{subject}", accounts: ["{account}"] }}'


def _import(kind: str, subject: str, account: str) -> str:
    return f'{{ {kind}: {{ account: "{account}", subject: "{subject}" }} }}'


def _cluster(site: Site, server: Server, wiring: Wiring) -> str:
    if len(site.servers) < 2:
        return ""
    # The certificates of all sites have one authority: the secret is what keeps another site's server out of the cluster.
    secret = wiring.keys[site.name].cluster_secret()
    routes = "".join(f'    "nats-route://{_ROUTE_USER}:{secret}@{host}:{port}"\n' for host, port in wiring.routes)
    tls = f"  tls {{ {_files(site, wiring)}, verify: true, timeout: 5, {_ROUTE_TLS} }}\n" if encrypts_routes(site) else ""
    return (
        f'cluster {{\n  name: {site.name}\n  host: "{server.listen_host}"\n  port: {wiring.ports.cluster}\n'
        f'  authorization {{ user: {_ROUTE_USER}, password: "{secret}", timeout: 5 }}\n{tls}'
        f"  no_advertise: true\n  compression: off\n  routes: [\n{routes}  ]\n}}\n"
    )


def _leafnodes(description: Description, site: Site, server: Server, wiring: Wiring) -> str:
    # A site that nobody dials has no leaf port at all. Advertised, a leaf connection that breaks would come back directly, past
    # the address that the description has for it.
    listen = ""
    if any(site.name in other.dials for other in description.sites):
        listen = (
            f'  host: "{site.leaf_listen_host or server.listen_host}"\n  port: {wiring.ports.leaf or -1}\n  no_advertise: true\n'
        )
        if description.tls(site.name):
            listen += f"  tls {{ {_files(site, wiring)}, verify: true, timeout: 5, {_SECURE_TLS} }}\n"

    def remote(dialled: str, account: str) -> str:
        tls = ""
        if description.tls(dialled):
            tls = f", tls {{ {_files(site, wiring)}, timeout: 5, {_SECURE_TLS} }}"
        scheme = "tls" if tls else "nats"
        urls = ", ".join(f'"{scheme}://{host}:{port}"' for host, port in wiring.leaf_addresses[dialled])
        return (
            f'    {{ urls: [{urls}], account: "{link_account(account, dialled)}",'
            f" compression: off, nkey: {wiring.keys[site.name].leaf(account, dialled).seed}{tls} }}\n"
        )

    dials = "".join(remote(dialled, account) for dialled in site.dials for account in LEAF_ACCOUNTS)
    remotes = f"  remotes: [\n{dials}  ]\n" if dials else ""
    return f'leafnodes {{\n{listen}  compression: off\n  reconnect: "{_RECONNECT}"\n{remotes}}}\n'


def _client_tls(site: Site, wiring: Wiring) -> str:
    return f"tls {{ {_files(site, wiring)}, timeout: 5, {_SECURE_TLS} }}\n" if site.client_tls else ""


def _files(site: Site, wiring: Wiring) -> str:
    files = [wiring.final(file) for file in wiring.keys[site.name].certificate()]
    return ", ".join(f'{key}: "{file}"' for key, file in zip(("cert_file", "key_file", "ca_file"), files, strict=True))
