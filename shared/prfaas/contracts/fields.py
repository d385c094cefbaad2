"""Types of single fields in messages: what no honest sender sends does not decode.

A name ends up in a subject, a header or a metric's label, a number in an average: so both are checked before anything sees them.
"""

from itertools import pairwise
from typing import Annotated

from msgspec import Meta

SubjectToken = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]
"""One token of a NATS subject or bucket name: no dots, spaces or wildcards."""
Bucket = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$", max_length=160)]
"""Name of a KV bucket, which holds the names of two sites."""
Subject = Annotated[str, Meta(pattern=r"^[!-)+-=?-~]+$", max_length=512)]
"""A subject to publish to: printable ASCII without spaces and wildcards."""
Id = Annotated[str, Meta(pattern=r"^[ -~]+$", max_length=256)]
"""Name of a request or transfer: printable ASCII, which a header can carry."""
Label = Annotated[str, Meta(max_length=512)]
"""Text that is compared and shown, such as a model's name."""
Count = Annotated[int, Meta(ge=0, le=1 << 53)]
Size = Annotated[float, Meta(ge=0, le=1e18)]
"""Bytes, tokens, or either per second. Excludes NaN and infinity."""
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Share = Annotated[float, Meta(ge=0, le=1)]
Points = Annotated[tuple[tuple[Annotated[float, Meta(gt=0, le=1e12)], Size], ...], Meta(max_length=256)]
"""Observed (size, value) pairs; `check_rising` tells whether their sizes rise."""
Marks = Annotated[tuple[tuple[Seconds, Size], ...], Meta(max_length=64)]
"""Course of a count: (seconds since a beginning, count by then) pairs, thinned out to what a picture shows."""


def check_rising(name: str, points: Points) -> None:
    """Raises ValueError unless the sizes rise from point to point."""
    if any(left >= right for (left, _), (right, _) in pairwise(points)):
        raise ValueError(f"{name} must rise in size from point to point")
