"""Sites that run on this machine: a nats-server each, joined by leaf connections through their emulated links."""

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra.nats_server import NatsServer, ServerConfig
from infra.wan.process import WanProcess
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.site.deployment_files import keys_of_sites
from prfaas.site.permissions import service_permissions
from prfaas.site.sealing_keys import SealingKeys, sealing_settings
from prfaas.site.server_ports import ServerPorts
from prfaas.site.site_config import LEAF_ACCOUNTS, render_site
from prfaas.site.site_keys import Key
from prfaas.site.sites import Description, Service, Site


class RunningSites:
    """Owns `directory`: one folder per site, with configuration, log, store and keys."""

    def __init__(self, description: Description, directory: Path) -> None:
        self.description = description
        self.directory = directory
        self.servers: dict[str, NatsServer] = {}
        self.links: dict[tuple[str, str], WanProcess] = {}
        """Emulated links by (dialling site, dialled site)."""
        self.leaf_addresses: dict[tuple[str, str], tuple[str, int]] = {}
        """Host and port by (dialling site, dialled site): those of the emulated link where there is one."""
        self.keys = keys_of_sites(description, directory)
        self.sealing_keys = {site.name: SealingKeys(directory / site.name) for site in description.sites}
        self._running = contextlib.AsyncExitStack()

    async def start(self) -> Self:
        """Returns when all leaf connections are up. Raises NatsServerError, WanProcessError; nothing runs then."""
        try:
            for site in self.description.in_dial_order():
                await self._start_site(site)
            await self.wait_joined()
        except BaseException:
            await self.stop()
            raise
        return self

    async def _start_site(self, site: Site) -> None:
        addresses = {dialled: await self.lead_to(site, dialled, self.servers[dialled].ports.leaf) for dialled in site.dials}
        self.leaf_addresses |= {(site.name, dialled): address for dialled, address in addresses.items()}
        ports = ServerPorts(site.client_port, site.leaf_port, site.monitor_port)
        server = NatsServer(self.directory / site.name, self._config(site, addresses), ports)
        self.servers[site.name] = await self._running.enter_async_context(server)

    async def lead_to(self, site: Site, dialled: str, leaf_port: int) -> tuple[str, int]:
        """Returns the address that `site` dials to reach `dialled`, which listens on `leaf_port`."""
        if (shape := self.description.link(site.name, dialled)) is None:
            return self.description.site(dialled).host, leaf_port
        link = await self._running.enter_async_context(WanProcess(("127.0.0.1", leaf_port), shape))
        self.links[site.name, dialled] = link
        return "127.0.0.1", link.port

    def _config(self, site: Site, addresses: dict[str, tuple[str, int]]) -> ServerConfig:
        return lambda ports, store: render_site(self.description, site, ports, store, self.keys, addresses)

    async def wait_joined(self, timeout_s: float = 60.0) -> None:
        """Returns when every server has all its leaf connections; after a fault they come back by themselves.

        Raises NatsServerError."""
        for site in self.description.sites:
            joined = len(self.description.neighbours(site.name)) * len(LEAF_ACCOUNTS)
            await self.servers[site.name].wait_for_leafs(joined, timeout_s)

    def endpoint(self, site: str, account: str) -> NatsEndpoint:
        """Returns the operator's connection to one account (ctl, bulk or sys) of a site, which may do anything in it."""
        return self._endpoint(site, self.keys[site].operator(account))

    def service_endpoint(self, service: Service, account: str) -> NatsEndpoint | None:
        """Returns the connection of one service to one account; None when the service has nothing to do there."""
        if account not in service_permissions(self.description, service):
            return None
        return self._endpoint(service.site, self.keys[service.site].service(service.name, account))

    def _endpoint(self, site: str, key: Key) -> NatsEndpoint:
        address = self.servers[site].client_url.partition("://")[2]
        if not self.description.site(site).client_tls:
            return NatsEndpoint(url=f"nats://{address}", nkey_seed_file=str(key.seed_file), site=site)
        authority = str(self.keys[site].certificate().ca_file)
        return NatsEndpoint(url=f"tls://{address}", nkey_seed_file=str(key.seed_file), tls_ca_file=authority, site=site)

    def service_config(self, service: Service) -> dict[str, Any]:
        """Returns the keys that every service's configuration file holds, and the service's own ones from the description."""
        endpoints = {key: self.service_endpoint(service, account) for key, account in (("control", "ctl"), ("bulk", "bulk"))}
        return {
            "site": service.site,
            "name": service.name,
            "http-port": service.http_port,
            **{key: _table(endpoint) for key, endpoint in endpoints.items() if endpoint is not None},
            **sealing_settings(self.description, self.directory, service),
        } | service.config

    async def stop(self) -> None:
        await self._running.aclose()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()


def _table(endpoint: NatsEndpoint) -> dict[str, str]:
    tls = {} if endpoint.tls_ca_file is None else {"tls-ca-file": endpoint.tls_ca_file}
    return {"url": endpoint.url, "nkey-seed-file": endpoint.nkey_seed_file or ""} | tls
