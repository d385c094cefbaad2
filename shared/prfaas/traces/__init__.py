"""Request traces of public services as one row type, whatever format they come in."""

from prfaas.traces.agentx import read_agentx
from prfaas.traces.azure import read_azure
from prfaas.traces.bad_rows import BadRows
from prfaas.traces.bailian import read_bailian
from prfaas.traces.burstgpt import read_burstgpt
from prfaas.traces.errors import TraceError
from prfaas.traces.formats import FORMATS, TraceFormat, read_trace, recognise_format
from prfaas.traces.mooncake import read_mooncake
from prfaas.traces.plain import read_plain
from prfaas.traces.request import TraceRequest, scaled, sped_up, spread_arrivals

__all__ = [
    "FORMATS",
    "BadRows",
    "TraceError",
    "TraceFormat",
    "TraceRequest",
    "read_agentx",
    "read_azure",
    "read_bailian",
    "read_burstgpt",
    "read_mooncake",
    "read_plain",
    "read_trace",
    "recognise_format",
    "scaled",
    "sped_up",
    "spread_arrivals",
]
