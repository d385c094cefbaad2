"""The one description of a deployment: its sites, the links between them, and which services run where."""

import ipaddress
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec

from prfaas.contracts.subjects import BETWEEN_SITES
from prfaas.site.kv_memory import lacking_memory, pull_bucket_mib
from prfaas.site.link_shape import LinkShape

AUTHORITY_FOLDER = "authority"
"""Folder beside those of the sites."""
LAST_PORT = 65535
Port = Annotated[int, msgspec.Meta(ge=0, le=LAST_PORT)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]


MAX_SERVERS = 5
"""Most servers of a cluster; JetStream has no more replicas of a stream."""


class DescriptionError(ValueError):
    """Raised for a description that does not fit together; the message names the place."""


class SiteKind(StrEnum):
    PD = "pd"
    """Gateway, scheduler, prefill and decode: answers any request by itself."""
    PRFAAS = "prfaas"
    """Prefill only."""


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One nats-server of a site that has several. An unset key is the site's."""

    host: str = ""
    """Name or address under which the other sites' servers reach this one."""
    client_host: str = ""
    """Name or address under which the site's services, and the other servers of its cluster, reach this one."""
    listen_host: str = ""
    client_port: Port | None = None
    leaf_port: Port | None = None
    monitor_port: Port | None = None
    cluster_port: Port = 0
    """Port on which the other servers of the cluster reach this one."""


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One datacenter: a NATS server, or a cluster of them, with a JetStream domain of the site's name."""

    name: Name
    kind: SiteKind
    dials: tuple[Name, ...] = ()
    """Sites whose leaf port this one's server dials."""
    host: str = "127.0.0.1"
    """Name or address under which the other sites' servers reach this one's."""
    client_host: str = "127.0.0.1"
    """Name or address under which the site's own services reach its server."""
    listen_host: str = "127.0.0.1"
    """Address on which the server listens for clients, leaf connections and the other servers of its cluster."""
    leaf_listen_host: str = ""
    """Address on which the server listens for leaf connections, where that is another one than for clients."""
    monitor_host: str = "127.0.0.1"
    """Address on which the server's monitoring port listens."""
    http_host: str = "127.0.0.1"
    """Address on which the site's services listen for HTTP."""
    store_directory: str = ""
    """Folder of JetStream's files. Empty: `store` in the site's own folder."""
    servers: tuple[Server, ...] = ()
    """Servers of a cluster, an odd number of them. Empty: one server, with the keys of the site itself."""
    link_tls: bool | None = None
    """TLS 1.3 on the leaf connections that come in here, with certificates on both ends. Unset: unless `host` is loopback."""
    seals: tuple[Name, ...] = ()
    """Prefill sites, maybe this one too, whose jobs and KV are sealed from worker to worker. Only for pd sites."""
    pulls_from: tuple[Name, ...] = ()
    """Other sites from whose prefill workers those of this one may pull cached prefixes, beside each other. Only for pd sites:
    what such a site has made wrong then harms prompts that it was not given."""
    client_tls: bool = False
    """TLS 1.3 between the site's own services and its server."""
    client_port: Port = 0
    leaf_port: Port = 0
    monitor_port: Port = 0
    egress_mbit: dict[Name, Annotated[float, msgspec.Meta(gt=0)]] = {}
    """Budget of KV that leaves this site, in 10^6 bits a second by pd site. A bandwidth probe here shares it out."""
    max_payload_bytes: Annotated[int, msgspec.Meta(ge=1 << 16, le=8 << 20)] = (1 << 20) + (64 << 10)
    """Largest message: a frame of 1 MiB and its headers."""
    max_memory_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] = 2 << 30
    """JetStream in memory: KV on its way to decode workers, at least `bucket-mib` of those here."""
    max_file_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] = 4 << 30
    """JetStream on disk: jobs, heartbeats, and KV where a bucket asks for it."""

    @property
    def server_names(self) -> list[str]:
        """Names of the site's servers: its own name, or numbered ones in a cluster."""
        return [f"{self.name}-{number + 1}" for number in range(len(self.servers))] or [self.name]

    def named_servers(self) -> dict[str, Server]:
        """Returns the site's servers by name, with all keys set."""
        own = Server(
            host=self.host,
            client_host=self.client_host,
            listen_host=self.listen_host,
            client_port=self.client_port,
            leaf_port=self.leaf_port,
            monitor_port=self.monitor_port,
        )
        whole = [_filled(server, own) for server in self.servers or (own,)]
        return dict(zip(self.server_names, whole, strict=True))

    def certificate_hosts(self) -> tuple[str, ...]:
        """Returns the names and addresses under which the site's servers are reached, the site's own first."""
        found = [self.host, self.client_host]
        found += [host for server in self.named_servers().values() for host in (server.host, server.client_host)]
        return tuple(dict.fromkeys((*found, "localhost", "127.0.0.1")))


def _filled(server: Server, own: Server) -> Server:
    keys = ("host", "client_host", "listen_host", "client_port", "leaf_port", "monitor_port")
    unset = {key: getattr(own, key) for key in keys if getattr(server, key) in ("", None)}
    return msgspec.structs.replace(server, **unset)


class Link(LinkShape, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """An emulated link in front of the dialled site's leaf port. Two sites without one are joined directly."""

    between: tuple[Name, Name]
    """Dialling site and dialled site."""


class Role(StrEnum):
    """Role of a service; its console script is `prfaas-<role>`."""

    GATEWAY = "gateway"
    SCHEDULER = "scheduler"
    PREFILL_WORKER = "prefill-worker"
    DECODE_WORKER = "decode-worker"
    BANDWIDTH_PROBE = "bandwidth-probe"


class Service(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    site: Name
    role: Role
    name: str = ""
    """Name, unique in its site. Empty: the role, and a number when there are several."""
    http_port: Port = 0
    """Port for the service's API, metrics and readiness. 0: picked when it starts. Of `replicas` each has the next one."""
    model: str = ""
    """Name of the model; empty: the description's."""
    replicas: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Number of processes like this one. Of two schedulers one leads and the other stands by."""
    config: dict[str, Any] = {}
    """Keys of the service's own configuration, as its file would have them."""


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    model: str
    sites: tuple[Site, ...]
    links: tuple[Link, ...] = ()
    services: tuple[Service, ...] = ()

    def site(self, name: str) -> Site:
        for site in self.sites:
            if site.name == name:
                return site
        raise DescriptionError(f"no site is called {name!r}; there are {', '.join(site.name for site in self.sites)}")

    def link(self, dialler: str, dialled: str) -> Link | None:
        return next((link for link in self.links if link.between == (dialler, dialled)), None)

    def tls(self, dialled: str) -> bool:
        """Returns whether leaf connections that come in at this site are encrypted."""
        site = self.site(dialled)
        return not is_loopback(site.host) if site.link_tls is None else site.link_tls

    def in_dial_order(self) -> list[Site]:
        """Returns each site after those that it dials. Raises DescriptionError for a ring."""
        ordered: list[Site] = []
        left = list(self.sites)
        while left:
            known = {site.name for site in ordered}
            free = [site for site in left if known.issuperset(site.dials)]
            if not free:
                raise DescriptionError(f"the sites {', '.join(site.name for site in left)} dial one another in a ring")
            ordered += free
            left = [site for site in left if site not in free]
        return ordered

    def neighbours(self, name: str) -> list[Site]:
        """Returns the sites joined to this one, whichever of the two dials."""
        own = self.site(name)
        return [site for site in self.sites if site.name in own.dials or name in site.dials]

    def served_sites(self, name: str) -> list[str]:
        """Returns the pd sites that may place work in this one: itself and its neighbours."""
        return [site.name for site in (self.site(name), *self.neighbours(name)) if site.kind is SiteKind.PD]

    def pulled_sites(self, name: str) -> list[str]:
        """Returns the sites from whose prefill workers those of this one may pull: itself, and those that it names."""
        return [name, *self.site(name).pulls_from]

    def pulling_sites(self, name: str) -> list[str]:
        """Returns the sites whose prefill workers may pull from those of this one."""
        return [site.name for site in self.sites if name in self.pulled_sites(site.name)]

    def sealing_peers(self, name: str) -> list[str]:
        """Returns the sites with which this one exchanges sealed jobs and KV, in either direction."""
        return sorted({*self.site(name).seals, *(site.name for site in self.sites if name in site.seals)})

    def validate(self) -> None:
        """Checks that everything fits together. Raises DescriptionError."""
        names = [site.name for site in self.sites]
        if len(set(names)) != len(names):
            raise DescriptionError(f"two sites have the same name: {', '.join(names)}")
        for site in self.sites:
            if BETWEEN_SITES in site.name:
                raise DescriptionError(f"the name of site {site.name} holds {BETWEEN_SITES}, which separates names of sites")
            if site.name == AUTHORITY_FOLDER:
                raise DescriptionError(f"no site may be called {AUTHORITY_FOLDER}: that folder holds the certificates' authority")
            for dialled in site.dials:
                if self.site(dialled).name == site.name:
                    raise DescriptionError(f"site {site.name} dials itself")
            self._validate_seals(site)
            self._validate_pulls(site)
            self._validate_servers(site)
            for destination in site.egress_mbit:
                if destination not in self.served_sites(site.name) or destination == site.name:
                    raise DescriptionError(f"site {site.name} has a budget for {destination}, which is no pd site beside it")
                if (site.name, Role.BANDWIDTH_PROBE) not in {(service.site, service.role) for service in self.services}:
                    raise DescriptionError(f"site {site.name} has an egress budget and no bandwidth probe to share it out")
        self.in_dial_order()
        for link in self.links:
            dialler, dialled = link.between
            if dialled not in self.site(dialler).dials:
                raise DescriptionError(f"there is a link between {dialler} and {dialled}, but {dialler} does not dial {dialled}")
        taken: set[tuple[str, str]] = set()
        for service in self.services:
            if self.site(service.site).kind is SiteKind.PRFAAS and service.role not in (
                Role.SCHEDULER,
                Role.PREFILL_WORKER,
                Role.BANDWIDTH_PROBE,
            ):
                raise DescriptionError(f"site {service.site} only prefills: it cannot run a {service.role}")
            if (service.site, service.name) in taken:
                raise DescriptionError(f"two services of site {service.site} have the same name: {service.name}")
            taken.add((service.site, service.name))
            keeps_buckets = service.role is Role.DECODE_WORKER or service.config.get("movable")
            max_memory_bytes = self.site(service.site).max_memory_bytes
            if keeps_buckets and (why := lacking_memory(max_memory_bytes, service.config, self._pull_bucket_mib(service.site))):
                raise DescriptionError(f"{service.role} {service.name} of site {service.site} {why}")

    def _pull_bucket_mib(self, site: str) -> int:
        """Returns what the buckets of the site's pulls take."""
        workers = [
            service.config
            for service in self.services
            if service.site == site and (service.role is Role.PREFILL_WORKER or service.config.get("movable"))
        ]
        return max((pull_bucket_mib(config) for config in workers), default=0)

    def _validate_servers(self, site: Site) -> None:
        if len(site.servers) % 2 == 0 and site.servers:
            raise DescriptionError(f"site {site.name} has {len(site.servers)} servers: an odd number can agree on who leads")
        if len(site.servers) > MAX_SERVERS:
            raise DescriptionError(f"site {site.name} has {len(site.servers)} servers, JetStream takes {MAX_SERVERS} at most")
        if len(site.servers) > 1 and (link := next((link for link in self.links if link.between[1] == site.name), None)):
            raise DescriptionError(f"an emulated link leads {link.between[0]} to one server, and site {site.name} has several")
        taken = [name for other in self.sites if other is not site for name in other.server_names]
        for name in site.server_names:
            if name in taken:
                raise DescriptionError(f"a server of site {site.name} would be called {name}, as another site's is")

    def _validate_pulls(self, site: Site) -> None:
        for holder in site.pulls_from:
            if holder == site.name or site.name not in self.served_sites(holder):
                raise DescriptionError(f"site {site.name} pulls from {holder}, which sends it no KV: that goes to pd sites only")

    def _validate_seals(self, site: Site) -> None:
        if site.seals and site.kind is not SiteKind.PD:
            raise DescriptionError(f"site {site.name} only prefills: its pd sites say in `seals` whether jobs are sealed")
        for peer in site.seals:
            if site.name not in self.served_sites(peer):
                raise DescriptionError(f"site {site.name} seals jobs for {peer}, which is no site beside it")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_description(path: Path) -> Description:
    """Reads and validates a description, and names its services. Raises DescriptionError, which names file and key."""
    try:
        description = msgspec.convert(tomllib.loads(path.read_text()), Description)
        description = msgspec.structs.replace(description, services=tuple(_named(description.services)))
        description.validate()
    except RecursionError as error:
        raise DescriptionError(f"{path} is nested too deeply") from error
    except (OSError, tomllib.TOMLDecodeError, ValueError) as error:
        raise DescriptionError(f"{path}: {error}") from error
    return description


def _named(described: tuple[Service, ...]) -> list[Service]:
    """Returns one service per process. Raises ValueError for replicas that could not differ."""
    services: list[Service] = []
    for service in described:
        if service.replicas > 1 and service.name:
            raise ValueError(f"a {service.role} with `replicas` has a `name`, which only one process can have")
        ports = range(service.http_port, service.http_port + service.replicas) if service.http_port else [0] * service.replicas
        if ports[-1] > LAST_PORT:
            raise ValueError(
                f"a {service.role} with {service.replicas} `replicas` from `http-port` {ports[0]} on has no ports left"
            )
        services += [msgspec.structs.replace(service, replicas=1, http_port=port) for port in ports]
    named: list[Service] = []
    for service in services:
        same = [other for other in services if (other.site, other.role) == (service.site, service.role)]
        number = 1 + sum((other.site, other.role) == (service.site, service.role) for other in named)
        name = service.name or (f"{service.role}-{number}" if len(same) > 1 else str(service.role))
        named.append(msgspec.structs.replace(service, name=name, model=service.model or ""))
    return named
