"""systemd units of one site: one per process, and a target that starts and stops all of them."""

from collections.abc import Mapping
from pathlib import Path

from prfaas.site.sites import Service, Site

SERVER_ENVIRONMENT: Mapping[str, str] = {"GOGC": "400", "GOMEMLIMIT": "2GiB", "GODEBUG": "madvdontneed=0"}
"""Environment of nats-server. KV frames make garbage as fast as they flow. With Go's defaults the heap is collected every few
frames and its pages go back to the kernel, which must clear them again: 15 to 20 % of the CPU time per byte that a transfer costs
the server. The limit is soft: near it the collector works as often as by default."""
USER = "prfaas"
_STOP_S = 60
"""Time to stop: the longest drain of the defaults, and the steps after it."""


def target_name(site: Site) -> str:
    return f"prfaas-{site.name}.target"


def server_unit_name(server: str) -> str:
    return f"prfaas-nats-{server}.service"


def service_unit_name(service: Service) -> str:
    return f"prfaas-{service.site}-{service.name}.service"


def target_unit(site: Site) -> str:
    return f"[Unit]\nDescription=prfaas site {site.name}\n\n[Install]\nWantedBy=multi-user.target\n"


def server_unit(site: Site, server: str, config: Path, store: Path, programs: Path) -> str:
    """Returns the unit of a nats-server. `programs` is the folder of the programs on the host."""
    environment = "".join(f"Environment={key}={value}\n" for key, value in SERVER_ENVIRONMENT.items())
    return _unit(
        site,
        f"nats-server {server} of prfaas site {site.name}",
        # The store may be missing, and its parent is read-only to the server itself.
        f"ExecStartPre=+/usr/bin/install -d -o {USER} -g {USER} -m 0700 {_word(store)}\n"
        f"ExecStart={_word(programs / 'nats-server')} -c {_word(config)}\n"
        "ExecReload=/bin/kill -HUP $MAINPID\n"
        f"{environment}ReadWritePaths={_word(f'-{store}')}\n",
    )


def service_unit(site: Site, service: Service, config: Path, programs: Path) -> str:
    """Returns the unit of one service."""
    return _unit(
        site,
        f"{service.role} {service.name} of prfaas site {site.name}",
        f"ExecStart={_word(programs / f'prfaas-{service.role}')} --config {_word(config)}\n"
        f"CacheDirectory=prfaas\nEnvironment=PRFAAS_CACHE_DIR=%C/prfaas\n",
    )


def _word(text: Path | str) -> str:
    """Returns one word as systemd reads it, whatever letters it has."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if " " in escaped else escaped


def _unit(site: Site, description: str, start: str) -> str:
    return f"""\
[Unit]
Description={description}
PartOf={target_name(site)}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
{start}User={USER}
Restart=always
RestartSec=2
TimeoutStopSec={_STOP_S}
LimitNOFILE=65536
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK

[Install]
WantedBy={target_name(site)}
"""
