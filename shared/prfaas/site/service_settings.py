"""The configuration of one service, as its TOML file holds it, from the description of the sites."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prfaas.contracts.to_probe import EGRESS_HEADROOM
from prfaas.site.file_places import FilePlaces
from prfaas.site.permissions import service_permissions
from prfaas.site.sealing_keys import sealing_settings
from prfaas.site.site_keys import Key, SiteKeys
from prfaas.site.sites import Description, Role, Service, SiteKind


class Surroundings(NamedTuple):
    """Parts of a service's configuration that are not in the description."""

    places: FilePlaces
    keys: Mapping[str, SiteKeys]
    """Keys by site."""
    servers: Sequence[tuple[str, int]]
    """Hosts and ports on which clients reach the servers of the service's site."""
    leafs: Mapping[str, tuple[str, int]]
    """Host and port on which the site's server reaches each site that it dials."""


def service_settings(description: Description, service: Service, around: Surroundings) -> dict[str, Any]:
    """Returns the keys of a service's file. The description's `config` of the service wins over what is derived here."""
    settings = _shared_by_all(description, service, around)
    match service.role:
        case Role.GATEWAY:
            return _of_gateway(description, service) | settings
        case Role.DECODE_WORKER | Role.PREFILL_WORKER:
            return settings | _of_worker(description, service, settings)
        case Role.BANDWIDTH_PROBE:
            return _of_probe(description, service, around) | settings
        case Role.SCHEDULER:
            places = description.site(service.site).kind is SiteKind.PD
            from_sites = description.site(service.site).pulls_from
            serves = description.served_sites(service.site)
            return {"places": places, "serves": serves} | ({"pulls-from": from_sites} if from_sites else {}) | settings


def endpoint_settings(description: Description, site: str, key: Key, around: Surroundings) -> dict[str, Any]:
    """Returns the keys of a connection of one user to the site's server, or to all servers of its cluster."""
    encrypted = description.site(site).client_tls
    urls = ",".join(f"{'tls' if encrypted else 'nats'}://{_bracketed(host)}:{port}" for host, port in around.servers)
    found: dict[str, Any] = {"url": urls, "nkey-seed-file": str(around.places.final(key.seed_file))}
    if encrypted:
        found["tls-ca-file"] = str(around.places.final(around.keys[site].certificate().ca_file))
    replicas = len(description.site(site).server_names)
    return found | ({"replicas": replicas} if replicas > 1 else {})


def unleased_bytes_per_s(description: Description, site: str) -> float | None:
    """Returns the bytes a second that each prefill worker may send while no probe shares the budget out; None without one."""
    budgets = description.site(site).egress_mbit
    workers = sum(service.site == site and service.role is Role.PREFILL_WORKER for service in description.services)
    return (1 - EGRESS_HEADROOM) * min(budgets.values()) * 1e6 / 8 / workers if budgets else None


def _shared_by_all(description: Description, service: Service, around: Surroundings) -> dict[str, Any]:
    granted = service_permissions(description, service)
    keys = around.keys[service.site]
    endpoints = {
        key: endpoint_settings(description, service.site, keys.service(service.name, account), around)
        for key, account in (("control", "ctl"), ("bulk", "bulk"))
        if account in granted
    }
    return {
        "site": service.site,
        "name": service.name,
        "http-host": description.site(service.site).http_host,
        "http-port": service.http_port,
        **endpoints,
        **sealing_settings(description, around.places, service),
    } | service.config


def _of_gateway(description: Description, service: Service) -> dict[str, Any]:
    chunks = [each.config.get("engine", {}).get("chunk-tokens") for each in description.services]
    # Prefixes are found by the workers' chunks, which are all alike.
    blocks = {"block-tokens": chunk} if (chunk := next(filter(None, chunks), None)) else {}
    return {"models": [service.model or description.model]} | blocks


def _of_worker(description: Description, service: Service, settings: Mapping[str, Any]) -> dict[str, Any]:
    # A worker of one role may get the other one, so each knows what both need.
    of_prefill: dict[str, Any] = {} if "serves" in settings else {"serves": description.served_sites(service.site)}
    if "pulls-from" not in settings and (from_sites := description.site(service.site).pulls_from):
        of_prefill["pulls-from"] = from_sites
    if "pulled-by" not in settings and (by := [each for each in description.pulling_sites(service.site) if each != service.site]):
        of_prefill["pulled-by"] = by
    neighbours = [neighbour.name for neighbour in description.neighbours(service.site)]
    of_decode = {"prefill-sites": neighbours} | settings.get(Role.DECODE_WORKER, {})
    if (alone := unleased_bytes_per_s(description, service.site)) is not None:
        of_prefill["link"] = {"egress-bytes-per-s": alone} | settings.get("link", {})
    return {
        "engine": {"model": service.model or description.model} | settings.get("engine", {}),
        Role.PREFILL_WORKER.value: of_prefill | settings.get(Role.PREFILL_WORKER, {}),
        Role.DECODE_WORKER.value: of_decode,
    }


def _of_probe(description: Description, service: Service, around: Surroundings) -> dict[str, Any]:
    measured = [site for site in description.served_sites(service.site) if site != service.site]
    leafs = {dialled: f"{_bracketed(host)}:{port}" for dialled, (host, port) in around.leafs.items() if dialled in measured}
    return {"measures": measured, "egress-mbit": dict(description.site(service.site).egress_mbit), "leafs": leafs}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
