"""Memory of a site's server that the KV buckets of its workers need."""

from collections.abc import Mapping
from typing import Any

from prfaas.bus.bulk.bucket import DEFAULT_BUCKET_MIB, DEFAULT_PULL_BUCKET_MIB


def pull_bucket_mib(config: Mapping[str, Any]) -> int:
    """Returns the size of the buckets that a prefill worker of this configuration pulls prefixes through."""
    mib = config.get("pull-bucket-mib", DEFAULT_PULL_BUCKET_MIB)
    return mib if isinstance(mib, int) and config.get("cache-pulls", True) else 0


def lacking_memory(max_memory_bytes: int, config: Mapping[str, Any], pulls_mib: int) -> str:
    """Returns why a decode worker of this configuration could not make its buckets beside those for pulls; empty when it could.

    nats-server reserves the whole of a bucket when it is made, and refuses one that it has no room for."""
    mib = config.get("bucket-mib", DEFAULT_BUCKET_MIB)
    if not isinstance(mib, int) or (mib + pulls_mib) << 20 <= max_memory_bytes:  # what is no number the service itself refuses
        return ""
    pulls = f" beside {pulls_mib} MiB for pulls" if pulls_mib else ""
    smaller = ", or `pull-bucket-mib` of the prefill workers smaller" if pulls_mib else ""
    return (
        f"wants KV buckets of {mib} MiB{pulls}, and the site's `max-memory-bytes` is {max_memory_bytes}: "
        f"it must be at least {(mib + pulls_mib) << 20}, or the `bucket-mib` of the decode workers smaller{smaller}"
    )
