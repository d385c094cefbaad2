"""Alerts and dashboard against a real Prometheus that scrapes a running deployment.

`python -m infra.observability.check [--targets .run/up/targets.json]` exits with 1 when a rule or query is wrong, or when
one names a metric that no service exposes.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from infra.debian import PackageError
from infra.observability import dashboard, expressions
from infra.observability.binaries import find
from prfaas.process import interruption
from prfaas.process.child import end_with_parent
from prfaas.stack.free_port import free_port

HERE = Path(__file__).parent
_SCRAPED_WITHIN_S = 60.0
_STOPS_WITHIN_S = 20.0
_POLL_S = 0.2


class CheckError(Exception):
    """Raised when Prometheus does not start or does not scrape."""


def promtool_says() -> list[str]:
    """Returns what promtool finds wrong with configuration, rules and the rules' own tests."""
    promtool = find("promtool")
    wrong = []
    for arguments in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ):
        done = subprocess.run([promtool, *arguments], cwd=HERE, capture_output=True, text=True, check=False, timeout=60.0)
        if done.returncode != 0:
            wrong.append(f"promtool {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return wrong


@contextlib.asynccontextmanager
async def prometheus(targets: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Runs Prometheus with our configuration on a port of its own; `targets` is absolute. Raises PackageError."""
    with tempfile.TemporaryDirectory() as directory:
        address = f"127.0.0.1:{free_port()}"
        config = Path(directory) / "prometheus.yml"
        text = (HERE / "prometheus.yml").read_text()
        text = text.replace("../../.run/up/targets.json", str(targets)).replace("alerts.yml", str(HERE / "alerts.yml"))
        config.write_text(text.replace("_interval: 5s", "_interval: 1s"))
        process = await asyncio.create_subprocess_exec(
            find("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address={address}", "--log.level=warn", preexec_fn=end_with_parent(),
        )  # fmt: skip
        try:
            async with httpx.AsyncClient(base_url=f"http://{address}/api/v1", timeout=10.0) as client:
                yield client
        finally:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOPS_WITHIN_S)
            except TimeoutError:
                process.kill()
                await process.wait()


async def ask(client: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    """Returns the answer's data. Raises CheckError with Prometheus' own sentence."""
    try:
        answer = (await client.get(path, params=parameters)).json()
    except (httpx.HTTPError, ValueError) as error:
        raise CheckError(f"Prometheus does not answer {path}: {error!r}") from None
    if answer["status"] != "success":
        raise CheckError(f"{parameters.get('query', path)}: {answer['error']}")
    return answer["data"]


async def until_scraped(client: httpx.AsyncClient, services: int) -> None:
    """Returns when every service was scraped. Raises CheckError."""
    until_at = time.monotonic() + _SCRAPED_WITHIN_S
    seen = "nothing"
    while time.monotonic() < until_at:
        try:
            found = (await ask(client, "/targets", state="active"))["activeTargets"]
            seen = ", ".join(f"{each['scrapeUrl']} {each['health']} {each['lastError']}".strip() for each in found)
            if sum(each["health"] == "up" for each in found) == services:
                return
        except CheckError as error:
            seen = str(error)
        await asyncio.sleep(_POLL_S)
    raise CheckError(f"{services} services were not scraped within {_SCRAPED_WITHIN_S:g} s: {seen}")


async def check(targets: Path, services: int) -> list[str]:
    """Returns sentences on what is wrong. Raises CheckError, PackageError."""
    wrong = promtool_says()
    async with prometheus(targets) as client:
        await until_scraped(client, services)
        families = set(await ask(client, "/metadata", limit="100000"))
        queries = [query.replace("$__rate_interval", "1m") for query in dashboard.queries()]
        queries += [rule.expr for rule in expressions.rules()]
        for query, names in expressions.unknown(queries, families).items():
            wrong.append(f"{query!r} names what no service exposes: {', '.join(sorted(names))}")
        for query in queries:
            try:
                await ask(client, "/query", query=query)
            except CheckError as error:
                wrong.append(str(error))
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.observability.check", description=__doc__)
    parser.add_argument("--targets", type=Path, default=HERE.parents[1] / ".run" / "up" / "targets.json")
    arguments = parser.parse_args()
    if not arguments.targets.exists():
        print(f"check: {arguments.targets} is not there; `make up` writes it", file=sys.stderr)
        return 2
    try:
        services = len(json.loads(arguments.targets.read_bytes()))
        wrong = interruption.run(check(arguments.targets.resolve(), services))
    except (CheckError, PackageError) as error:
        print(f"check: {error}", file=sys.stderr)
        return 1
    print("\n".join(wrong) or f"{len(dashboard.queries())} queries and {len(expressions.rules())} rules are right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
