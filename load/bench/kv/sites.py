"""The two sites between which the benchmark moves KV."""

import contextlib
from pathlib import Path
from typing import Any

from load.bench.kv.methods import BUCKET, FAR, SITE
from prfaas.bus.bulk import BulkLane, ensure_kv_bucket
from prfaas.bus.bulk.bucket import api, stream_name
from prfaas.site.sites import Description, Link, Site, SiteKind
from prfaas.stack.running_sites import RunningSites

MIB = 1 << 20


def two_sites(directory: Path, rate_mbit: float | None, rtt_ms: float, *, tls: bool = False) -> RunningSites:
    """FAR sends to SITE, over an emulated link or, without a rate, directly. `tls`: the leaf connection is encrypted."""
    link = () if rate_mbit is None else (Link(between=(FAR, SITE), rate_mbit=rate_mbit, rtt_ms=rtt_ms),)
    sites = (Site(name=SITE, kind=SiteKind.PD, link_tls=tls), Site(name=FAR, kind=SiteKind.PRFAAS, dials=(SITE,)))
    return RunningSites(Description(model="none", sites=sites, links=link), directory)


def ends(sites: RunningSites) -> dict[str, Any]:
    """Returns the fields of a job that goes from FAR to SITE."""
    return {"send_endpoint": sites.endpoint(FAR, "bulk"), "receive_endpoint": sites.endpoint(SITE, "bulk")}


async def prepare(sites: RunningSites, storage: str) -> None:
    """Makes the bucket in SITE anew, in memory or on file storage."""
    lane = await BulkLane.connect(sites.endpoint(SITE, "bulk"), name="bench", timeout_s=5)
    with contextlib.suppress(Exception):
        await api(lane, f"STREAM.DELETE.{stream_name(BUCKET)}")
    await ensure_kv_bucket(lane, BUCKET, max_bytes=1536 * MIB, ttl_s=600, storage=storage)
    await lane.close()
