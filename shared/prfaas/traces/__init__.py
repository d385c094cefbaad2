"""Request traces of public services as one row type, whatever format they come in."""

from prfaas.traces.readers import FORMATS, TraceError, read_agentx, read_azure, read_mooncake, read_trace
from prfaas.traces.request import TraceRequest, scaled, sped_up, spread_arrivals

__all__ = [
    "FORMATS",
    "TraceError",
    "TraceRequest",
    "read_agentx",
    "read_azure",
    "read_mooncake",
    "read_trace",
    "scaled",
    "sped_up",
    "spread_arrivals",
]
