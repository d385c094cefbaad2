"""The traces that the experiments replay, ready to read; what they are and where from: data/MANIFEST.md."""

from collections.abc import Iterator
from pathlib import Path

from prfaas.traces import TraceRequest, read_agentx, read_azure, read_mooncake, spread_arrivals

DATA = Path(__file__).parent / "data"
MOONCAKE_CONVERSATION = DATA / "mooncake_conversation.jsonl.gz"
AZURE_CONVERSATION = DATA / "azure_2023_conv.csv.gz"
AGENTX = DATA / "agentx_compact.jsonl.gz"

MOONCAKE_BUCKET_S = 3.0
"""Mooncake's stamps are rounded to about this."""


def mooncake_bursts() -> Iterator[TraceRequest]:
    """Reads the trace with its raw stamps: about ten requests at once every 3 s, an artefact of rounding that makes bursts."""
    return read_mooncake(MOONCAKE_CONVERSATION)


def mooncake_steady(seed: int) -> Iterator[TraceRequest]:
    """Reads the trace and spreads arrivals over their 3 s buckets."""
    return spread_arrivals(read_mooncake(MOONCAKE_CONVERSATION), bucket_s=MOONCAKE_BUCKET_S, seed=seed)


def azure() -> Iterator[TraceRequest]:
    return read_azure(AZURE_CONVERSATION)


def agentx() -> Iterator[TraceRequest]:
    """Session by session; arrivals are within the session."""
    return read_agentx(AGENTX)
