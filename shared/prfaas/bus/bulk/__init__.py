"""The bulk lane: a NATS client that does one thing, moving KV frames without copying them.

nats-py joins every payload into its PUB line and reads through 32 KiB slices: 6 to 8 times the CPU time per byte of what is here.
Everything that is not KV stays with nats-py.
"""

from prfaas.bus.bulk.bucket import ensure_kv_bucket
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import DisconnectedError, LaneError, Message

__all__ = ["BulkLane", "DisconnectedError", "LaneError", "Message", "ensure_kv_bucket"]
