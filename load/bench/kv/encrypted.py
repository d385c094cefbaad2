"""Cost of TLS on a leaf connection, of sealing, and of both: the same transfers with and without, in turn."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from load.bench.kv.methods import Job
from load.bench.kv.run import Measured
from load.bench.kv.sites import MIB, ends, prepare, two_sites

WITHOUT, TLS = "lane, leaf connection without TLS", "lane, leaf connection with TLS"
SEALED, BOTH = "lane, sealed, leaf connection without TLS", "lane, sealed, leaf connection with TLS"
BYTES = 256 * MIB
Table = Callable[[str, Job, Sequence[tuple[str, str, dict[str, Any]]], Sequence[int]], dict[str, Measured]]


async def encrypted(table: Table) -> dict[str, Measured]:
    """Returns what was measured WITHOUT, with TLS, SEALED and with BOTH.

    CPU time is that of the two servers on the way and of two idle ones."""
    with tempfile.TemporaryDirectory() as directory:
        async with (
            two_sites(Path(directory, "plain"), None, 0) as plain,
            two_sites(Path(directory, "tls"), None, 0, tls=True) as tls,
        ):
            changes: dict[str, dict[str, Any]] = {}
            for open_frames, sealed, sites in ((WITHOUT, SEALED, plain), (TLS, BOTH, tls)):
                await prepare(sites, "memory")
                changes |= {open_frames: ends(sites), sealed: ends(sites) | {"sealed": True}}
            job = Job(total_bytes=BYTES, warm_bytes=32 * MIB, **changes[WITHOUT])
            pids = [server.pid for sites in (plain, tls) for server in sites.servers.values()]
            variants = [(what, "lane", changed) for what, changed in changes.items()]
            return table(f"site to site, {BYTES // MIB} MiB", job, variants, pids)
