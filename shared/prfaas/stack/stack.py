"""A whole deployment on this machine: sites, links and services of one description, started together and stopped together."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prfaas.site.sites import Description, Role, Service, SiteKind
from prfaas.stack.loading_news import loading_news
from prfaas.stack.local_page import local_page
from prfaas.stack.nats_server import NatsServer
from prfaas.stack.running_sites import RunningSites
from prfaas.stack.service_process import ServiceProcess, ServiceProcessError
from prfaas.wan.process import WanProcess

READY_DEADLINE_S = 120.0
"""Deadline for a service to be ready; loading a model on a busy machine takes most of it."""
STOP_DEADLINE_S = 30.0
_POLL_S = 0.1


class Stack:
    """Owns `directory`: configuration, logs, keys and stores, one folder per site."""

    def __init__(
        self,
        description: Description,
        directory: Path,
        *,
        environ: Mapping[str, str] | None = None,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.description = description
        self.directory = directory
        self.sites = RunningSites(description, directory)
        self.services: dict[tuple[str, str], ServiceProcess] = {}
        """Processes by (site, name)."""
        self._environ = environ or {}
        self._progress = progress

    async def start(self) -> Self:
        """Returns when the first request may come: every service is ready and every worker known to its schedulers.

        Raises NatsServerError, WanProcessError, ServiceProcessError; nothing runs then."""
        try:
            self._progress(f"starting {len(self.description.sites)} sites")
            await self.sites.start()
            for service in self.description.services:
                process = self._process(service)
                self.services[service.site, service.name] = process
                await process.spawn()
            waiting = {asyncio.create_task(self._ready(site, process)) for (site, _), process in self.services.items()}
            try:
                await asyncio.gather(*waiting)
            finally:
                for task in waiting:
                    task.cancel()
            await self.wait_introduced()
        except BaseException:
            await self.stop()
            raise
        return self

    async def stop(self) -> None:
        """Stops gateways first, so that running answers drain while their workers still live; then the rest, then the sites."""
        gateways = [process for process in self.services.values() if process.role == Role.GATEWAY]
        others = [process for process in self.services.values() if process.role != Role.GATEWAY]
        for group in (gateways, others):
            await asyncio.gather(*(process.stop(STOP_DEADLINE_S) for process in group if process.exit_code is None))
        await self.sites.stop()

    def kill(self) -> None:
        """Sends SIGKILL to every process; `stop` has nothing to wait for then."""
        groups: list[Iterable[ServiceProcess | WanProcess | NatsServer]]
        groups = [self.services.values(), self.sites.links.values(), self.sites.servers.values()]
        for process in (process for group in groups for process in group):
            process.kill()

    def process(self, site: str, role: Role) -> ServiceProcess:
        """Returns the only service of its role in a site."""
        (found,) = self.processes(site, role)
        return found

    async def metrics(self, site: str, name: str) -> str:
        """Fetches the page that Prometheus reads."""
        return (await local_page(self.services[site, name].http_port, "/metrics")).text

    def processes(self, site: str, role: Role) -> list[ServiceProcess]:
        """Returns all services of a role in a site, in the order of the description."""
        return [process for (at, _), process in self.services.items() if at == site and process.role == role]

    def gateway_url(self, site: str) -> str:
        """Returns the address that the site's gateways share, or that of its first gateway where they share none."""
        gateways = [each for each in self.description.services if each.site == site and each.role is Role.GATEWAY]
        shared = gateways[0].config.get("http-shared-port")
        return f"http://127.0.0.1:{shared or self.services[site, gateways[0].name].http_port}"

    def _process(self, service: Service) -> ServiceProcess:
        config = self.sites.service_config(service)
        return ServiceProcess(service.role.value, service.name, config, self.directory / service.site, self._environ)

    async def _ready(self, site: str, process: ServiceProcess) -> None:
        started_at = time.monotonic()

        def heard(entry: Mapping[str, Any]) -> None:
            if what := loading_news(entry):
                self._progress(f"{process.name} of {site} {what}")

        await process.wait_ready(READY_DEADLINE_S, heard)
        self._progress(f"{process.name} of {site} is ready after {time.monotonic() - started_at:.1f} s")

    async def wait_introduced(self) -> None:
        """Returns when each scheduler knows all workers that serve its site. Raises ServiceProcessError."""
        until_at = time.monotonic() + READY_DEADLINE_S
        schedulers = [(at, process) for (at, _), process in self.services.items() if process.role == Role.SCHEDULER]
        for site, scheduler in [each for each in schedulers if self.description.site(each[0]).kind is SiteKind.PD]:
            expected = self._workers_of(site)
            while await self._workers_known(scheduler) < expected:
                if time.monotonic() > until_at:
                    raise ServiceProcessError(
                        f"the scheduler of {site} does not know its {expected} workers after {READY_DEADLINE_S:g} s:\n"
                        + scheduler.log_end()
                    )
                await asyncio.sleep(_POLL_S)
        for (site, _), process in self.services.items():
            if process.role == Role.GATEWAY:
                while (await local_page(process.http_port, "/ready")).status != 200:
                    if time.monotonic() > until_at:
                        raise ServiceProcessError(f"the gateway of {site} is not ready:\n{process.log_end()}")
                    await asyncio.sleep(_POLL_S)

    def _workers_of(self, site: str) -> int:
        def serves(service: Service) -> bool:
            if service.role == Role.DECODE_WORKER:
                return service.site == site
            return service.role == Role.PREFILL_WORKER and site in self.description.served_sites(service.site)

        return sum(serves(service) for service in self.description.services)

    async def _workers_known(self, scheduler: ServiceProcess) -> int:
        page = (await local_page(scheduler.http_port, "/metrics")).text
        return sum(int(float(line.split()[-1])) for line in page.splitlines() if line.startswith("prfaas_workers{"))

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()
