"""Memory of a site's server that the KV buckets of its decode workers need."""

from collections.abc import Mapping
from typing import Any

from prfaas.bus.bulk.bucket import DEFAULT_BUCKET_MIB


def lacking_memory(max_memory_bytes: int, config: Mapping[str, Any]) -> str:
    """Returns why a decode worker of this configuration could not make its buckets; empty when it could.

    nats-server reserves the whole of a bucket when it is made, and refuses one that it has no room for."""
    mib = config.get("bucket-mib", DEFAULT_BUCKET_MIB)
    if not isinstance(mib, int) or mib << 20 <= max_memory_bytes:  # what is no number the service itself refuses
        return ""
    return (
        f"wants KV buckets of {mib} MiB, and the site's `max-memory-bytes` is {max_memory_bytes}: "
        f"it must be at least {mib << 20}, or the `bucket-mib` of the decode workers smaller"
    )
