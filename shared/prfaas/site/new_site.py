"""One more site in a description: its own table, and the services that a site of its kind needs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from prfaas.site.sites import Description, DescriptionError, Role, SiteKind, load_description

CLIENT_PORT, LEAF_PORT, MONITOR_PORT = 4222, 7422, 8222
"""Ports that nats-server's users know; a site on a host of its own has them to itself."""
GATEWAY_PORT, FIRST_HTTP_PORT = 8000, 8101
_SERVICES = {
    SiteKind.PD: (Role.SCHEDULER, Role.BANDWIDTH_PROBE, Role.PREFILL_WORKER, Role.DECODE_WORKER, Role.GATEWAY),
    SiteKind.PRFAAS: (Role.SCHEDULER, Role.BANDWIDTH_PROBE, Role.PREFILL_WORKER),
}


def add_site(path: Path, name: str, kind: SiteKind, host: str, dials: Sequence[str], model: str) -> None:
    """Appends the site to the description in `path`, which stays as it is otherwise; begins one with `model` if it is not there.

    Raises DescriptionError, and changes nothing, when the whole would not fit together."""
    begins = not path.exists()
    description = Description(model=model, sites=()) if begins else load_description(path)
    if any(site.name == name for site in description.sites):
        raise DescriptionError(f"{path} has a site {name} already")
    if kind is SiteKind.PRFAAS and not dials:
        raise DescriptionError(f"site {name} needs a site to dial: give --dials")
    site: dict[str, Any] = {"name": name, "kind": str(kind), "host": host}
    if kind is SiteKind.PD:  # sites that only prefill dial it
        site |= {"listen-host": "0.0.0.0", "leaf-port": LEAF_PORT}
    site |= {"dials": list(dials), "client-port": CLIENT_PORT, "monitor-port": MONITOR_PORT}
    services = [_service(name, role, FIRST_HTTP_PORT + number) for number, role in enumerate(_SERVICES[kind])]
    _check(description, site, services)
    tables: list[tuple[str, Mapping[str, Any]]] = [("sites", site), *(("services", service) for service in services)]
    with path.open("a") as file:
        if begins:
            file.write(tomli_w.dumps({"model": model}))
        file.writelines(f"\n[[{kind}]]\n{tomli_w.dumps(table)}" for kind, table in tables)


def _service(site: str, role: Role, port: int) -> dict[str, str | int]:
    return {"site": site, "role": str(role), "http-port": GATEWAY_PORT if role is Role.GATEWAY else port}


def _check(description: Description, site: dict[str, object], services: list[dict[str, str | int]]) -> None:
    try:
        parts = msgspec.convert({"model": description.model, "sites": [site], "services": services}, Description)
    except msgspec.ValidationError as error:
        raise DescriptionError(f"site {site['name']}: {error}") from error
    whole = msgspec.structs.replace(description, sites=(*description.sites, *parts.sites), services=description.services)
    whole.validate()
