"""No secret of a running stack is where others look: logs, command lines, environments, metrics."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from load.emulated_stack import HOME, MODEL, two_sites
from prfaas.secrets.secret_files import readable_by_others
from prfaas.secrets.tenants_file import Limits
from prfaas.site.sites import Description, Role
from prfaas.stack.stack import Stack
from tests.gateway.conftest import make_tenants

pytestmark = [pytest.mark.timeout(300), pytest.mark.e2e]
PROMPT = "a prompt that nothing else says"


def with_tenants(description: Description, tenants_file: str, site_changes: dict[str, Any]) -> Description:
    services = tuple(
        msgspec.structs.replace(service, config=service.config | {"tenants-file": tenants_file, "log-level": "debug"})
        if service.role is Role.GATEWAY
        else msgspec.structs.replace(service, config=service.config | {"log-level": "debug"})
        for service in description.services
    )
    sites = tuple(msgspec.structs.replace(site, **site_changes) for site in description.sites)
    return msgspec.structs.replace(description, services=services, sites=sites)


def secrets_in(directory: Path) -> Iterator[str]:
    """Yields every seed, and a line of every private key."""
    for seed in directory.rglob("*.nk"):
        yield seed.read_text().strip()
    for key in directory.rglob("*-key.pem"):
        yield key.read_text().splitlines()[1]


async def test_logs_command_lines_environments_and_metrics_of_a_running_stack_hold_no_secret(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"acme": Limits(requests_per_minute=1)})
    scheduler = {"policy": "threshold", "threshold-tokens": 512}
    description = two_sites(remote_workers=1, rate_mbit=200.0, scheduler=scheduler)
    run = tmp_path / "run"
    async with Stack(with_tenants(description, path, {"link_tls": True, "client_tls": True}), run) as stack:
        async with httpx.AsyncClient(base_url=stack.gateway_url(HOME), timeout=60, trust_env=False) as client:
            statuses = []
            for key in (keys["acme"], keys["acme"], keys["acme"][:-1], "guess"):
                body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 4}
                headers = {"authorization": f"Bearer {key}"}
                statuses.append((await client.post("/v1/completions", json=body, headers=headers)).status_code)
        assert statuses == [200, 429, 401, 401]
        pids = [process.pid for process in stack.services.values()] + [server.pid for server in stack.sites.servers.values()]
        family = psutil.Process().children(recursive=True)
        assert set(pids) <= {process.pid for process in family}
        shown = {f"metrics of {name}": await stack.metrics(site, name) for site, name in stack.services}
        for process in family:
            shown[f"command line of {process.pid}"] = " ".join(process.cmdline())
            shown[f"environment of {process.pid}"] = str(process.environ())
    logs = list(run.rglob("*.log"))
    assert len(logs) >= len(pids)
    shown |= {str(log): log.read_text(errors="replace") for log in logs}
    secrets = [*secrets_in(run), *keys.values(), *(key[19:] for key in keys.values()), PROMPT]
    assert len(secrets) > 20
    found = [where for where, text in shown.items() if any(secret in text for secret in secrets)]
    assert found == []
    assert any("limit_reached" in text for text in shown.values()), "the logs are those of this run"
    assert list(readable_by_others(run)) == []
