"""Server-sent events that are named, as some APIs have them."""

from typing import Any

import msgspec


def named_event(kind: str, /, **fields: Any) -> bytes:
    """Returns an event whose data has its name as `type`, before the fields."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))
