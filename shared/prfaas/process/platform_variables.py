"""Environment variables that a platform injects for its services, told from ours by their shape.

Kubernetes describes each Service of a namespace to every container, and Docker each linked one: a Service called
`prfaas-gateway` gives PRFAAS_GATEWAY_PORT=tcp://10.0.0.1:80, PRFAAS_GATEWAY_SERVICE_HOST=10.0.0.1 and more. Nothing marks them as
the platform's but their names' ends and their values.
"""

import re
from typing import Final

_SHAPES: Final[tuple[tuple[re.Pattern[str], re.Pattern[str]], ...]] = tuple(
    (re.compile(rf"(?:.*_)?{name}"), re.compile(value))
    for name, value in (
        (r"SERVICE_HOST", r".*"),
        (r"SERVICE_PORT(?:_[A-Z0-9_]+)?", r"\d+"),
        (r"PORT", r"(?:tcp|udp|sctp)://.*"),
        (r"PORT_\d+_(?:TCP|UDP|SCTP)", r"(?:tcp|udp|sctp)://.*"),
        (r"PORT_\d+_(?:TCP|UDP|SCTP)_(?:PROTO|PORT|ADDR)", r".*"),
        # Docker's legacy links also give the linked container's name and environment.
        (r"NAME", r"/[^/]+/[^/]+"),
        (r"ENV_.+", r".*"),
    )
)
"""Patterns of a name's end and of a value; both must match whole."""


def is_platforms(name: str, value: str) -> bool:
    """Tells whether a variable describes a service of the platform; `name` comes without our prefix.

    The name may be one of ours: PRFAAS_HTTP_PORT=tcp://10.0.0.1:80 is of a Service called `prfaas-http`."""
    return any(names.fullmatch(name) and values.fullmatch(value) for names, values in _SHAPES)
