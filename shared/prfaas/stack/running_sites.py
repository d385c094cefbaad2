"""Sites that run on this machine: a nats-server each, joined by leaf connections through their emulated links."""

import asyncio
import contextlib
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from prfaas.bus.endpoint import NatsEndpoint
from prfaas.site.deployment_files import keys_of_sites
from prfaas.site.file_places import FilePlaces
from prfaas.site.permissions import service_permissions
from prfaas.site.sealing_keys import SealingKeys
from prfaas.site.server_ports import ServerPorts
from prfaas.site.service_settings import Surroundings, endpoint_settings, service_settings
from prfaas.site.site_config import LEAF_ACCOUNTS, Wiring, render_server
from prfaas.site.site_keys import Key
from prfaas.site.sites import Description, Service, Site
from prfaas.stack.free_port import free_port
from prfaas.stack.nats_server import NatsServer, NatsServerError, ServerConfig
from prfaas.wan.process import WanProcess

_POLL_S = 0.02


class RunningSites:
    """Owns `directory`: one folder per site, with configuration, log, store and keys."""

    def __init__(self, description: Description, directory: Path) -> None:
        self.description = description
        self.directory = directory
        self.servers: dict[str, NatsServer] = {}
        """Servers by name, which is the site's where it has one server."""
        self.links: dict[tuple[str, str], WanProcess] = {}
        """Emulated links by (dialling site, dialled site)."""
        self._leaf_addresses: dict[tuple[str, str], list[tuple[str, int]]] = {}
        self.keys = keys_of_sites(description, directory)
        self.sealing_keys = {site.name: SealingKeys(directory / site.name) for site in description.sites}
        self._running = contextlib.AsyncExitStack()

    async def start(self) -> Self:
        """Returns when all leaf connections are up, and each cluster has all its servers.

        Raises NatsServerError, WanProcessError; nothing runs then."""
        try:
            for site in self.description.in_dial_order():
                await self._start_site(site)
            await self.wait_joined()
        except BaseException:
            await self.stop()
            raise
        return self

    async def _start_site(self, site: Site) -> None:
        for dialled in site.dials:
            servers = self.servers_of(dialled)
            self._leaf_addresses[site.name, dialled] = [await self.lead_to(site, dialled, each.ports.leaf) for each in servers]
        described = site.named_servers()
        routes = {name: server.cluster_port or free_port() for name, server in described.items()} if len(described) > 1 else {}
        servers = []
        for name, server in described.items():
            ports = ServerPorts(server.client_port or 0, server.leaf_port or 0, server.monitor_port or 0, routes.get(name, 0))
            others = [(described[other].client_host, port) for other, port in routes.items() if other != name]
            directory = self.directory / site.name / (name if routes else "")
            servers.append(NatsServer(directory, self._config(site, name, others), ports))
            self.servers[name] = servers[-1]
        # Together: the servers of a cluster agree on who leads only when most of them have met.
        entering = (self._running.enter_async_context(server) for server in servers)
        for outcome in await asyncio.gather(*entering, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        if routes:
            # Two of three servers form a cluster of two, and the third joins it later: a death before that stops all of them.
            for started in servers:
                await started.wait_current()

    async def lead_to(self, site: Site, dialled: str, leaf_port: int) -> tuple[str, int]:
        """Returns the address that `site` dials to reach `dialled`, which listens on `leaf_port`."""
        if (shape := self.description.link(site.name, dialled)) is None:
            return self.description.site(dialled).host, leaf_port
        link = await self._running.enter_async_context(WanProcess(("127.0.0.1", leaf_port), shape))
        self.links[site.name, dialled] = link
        return "127.0.0.1", link.port

    def _config(self, site: Site, name: str, routes: list[tuple[str, int]]) -> ServerConfig:
        addresses = {dialled: self._leaf_addresses[site.name, dialled] for dialled in site.dials}
        return lambda ports, store: render_server(
            self.description, site, name, Wiring(ports, store, self.keys, addresses, routes)
        )

    @property
    def leaf_addresses(self) -> dict[tuple[str, str], tuple[str, int]]:
        """Host and port by (dialling site, dialled site): those of the emulated link where there is one, else of the first
        server."""
        return {between: addresses[0] for between, addresses in self._leaf_addresses.items()}

    def servers_of(self, site: str) -> list[NatsServer]:
        """Returns the servers of a site that are started, in the order of the description."""
        return [self.servers[name] for name in self.description.site(site).server_names]

    async def wait_joined(self, timeout_s: float = 60.0) -> None:
        """Returns when every site has all its leaf connections; after a fault they come back by themselves.

        Raises NatsServerError."""
        until_at = time.monotonic() + timeout_s
        for site in self.description.sites:
            diallers = [other for other in self.description.sites if site.name in other.dials]
            dialling = [*[site] * len(site.dials), *diallers]
            # Each server of a dialling cluster dials by itself; which server of a dialled one it meets is open.
            joined = sum(len(dialler.server_names) for dialler in dialling) * len(LEAF_ACCOUNTS)
            servers = self.servers_of(site.name)
            if len(servers) == 1:
                await servers[0].wait_for_leafs(joined, until_at - time.monotonic())
                continue
            while (found := sum([len(await server.leafs()) for server in servers])) != joined:
                if time.monotonic() > until_at:
                    raise NatsServerError(f"the servers of {site.name} have {found} leaf connections, expected {joined}")
                await asyncio.sleep(_POLL_S)

    def endpoint(self, site: str, account: str) -> NatsEndpoint:
        """Returns the operator's connection to one account (ctl, bulk or sys) of a site, which may do anything in it."""
        return self._endpoint(site, self.keys[site].operator(account))

    def service_endpoint(self, service: Service, account: str) -> NatsEndpoint | None:
        """Returns the connection of one service to one account; None when the service has nothing to do there."""
        if account not in service_permissions(self.description, service):
            return None
        return self._endpoint(service.site, self.keys[service.site].service(service.name, account))

    def _endpoint(self, site: str, key: Key) -> NatsEndpoint:
        settings = endpoint_settings(self.description, site, key, self._around(site))
        return msgspec.convert(settings | {"site": site}, NatsEndpoint)

    def service_config(self, service: Service) -> dict[str, Any]:
        """Returns the configuration of one service, whose file holds nothing else."""
        return service_settings(self.description, service, self._around(service.site))

    def _around(self, site: str) -> Surroundings:
        return Surroundings(
            places=FilePlaces.here(self.directory),
            keys=self.keys,
            servers=[("127.0.0.1", server.ports.client) for server in self.servers_of(site)],
            leafs={dialled: address for (dialler, dialled), address in self.leaf_addresses.items() if dialler == site},
        )

    async def stop(self) -> None:
        await self._running.aclose()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()
