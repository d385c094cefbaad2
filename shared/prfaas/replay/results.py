"""The result of a replay as a file: versioned JSON, documented field by field in docs/replay.md.

Times are seconds after the run's start, where a name does not say otherwise; rates are per second.
"""

import contextlib
from pathlib import Path

import msgspec

from prfaas.replay.rows import RequestRow, Slo
from prfaas.replay.summary import Summary
from prfaas.replay.workload import Survey, Workload

SCHEMA = "prfaas.replay"
SCHEMA_VERSION = 1


class ResultError(Exception):
    """A result file that cannot be read or written; the message is a sentence."""


class Series(msgspec.Struct, kw_only=True):
    """One metric of the services over the run."""

    name: str
    """Prometheus' name; a counter's ends in `_total`."""
    labels: dict[str, str] = {}
    at_s: list[float] = []
    values: list[float] = []


class ClientCost(msgspec.Struct, frozen=True, kw_only=True):
    """Resources that the load generator itself took."""

    processes: int
    cpu_cores: float
    """Processor time of all its processes per second of the run."""
    peak_rss_bytes: int
    """Largest of any of its processes."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    target: str
    model: str
    endpoint: str
    workload: Workload | None
    survey: Survey | None
    prompts: str
    """Sentence that says how prompts were made, and how it is known that their tokens count right."""
    slo: Slo
    warm_up_s: float
    """Requests that are due before it are not part of the figures."""
    started_at: str
    """Wall clock at the moment 0 of all times, ISO 8601 in UTC."""
    command: str
    versions: dict[str, str]
    machine: dict[str, str]
    notes: list[str] = []


class Run(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    setup: Setup
    end_s: float
    """Moment at which the sending ended: the figures are of [warm_up_s, end_s)."""
    interrupted: bool
    client: ClientCost
    metrics: list[Series]
    summary: Summary
    """The figures, computed from `requests`."""
    requests: list[RequestRow]

    @property
    def measured(self) -> list[RequestRow]:
        """Requests that were due after the warm-up and before the end."""
        return [row for row in self.requests if self.setup.warm_up_s <= row.due_s < self.end_s]


def save_run(run: Run, path: Path) -> None:
    """Raises ResultError."""
    write_bytes(path, msgspec.json.encode(run) + b"\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file that is whole or not there. Raises ResultError."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise ResultError(f"{path} cannot be written: {error.strerror}.") from error


class _Head(msgspec.Struct):
    schema: str = ""
    schema_version: int = 0


def load_run(path: Path) -> Run:
    """Raises ResultError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        head = msgspec.json.decode(content, type=_Head)
        if head.schema != SCHEMA:
            raise ResultError(f"{path} is no result of `prfaas replay`: its `schema` is {head.schema!r}, not {SCHEMA!r}.")
        if head.schema_version != SCHEMA_VERSION:
            raise ResultError(f"{path} has version {head.schema_version} of the schema; this prfaas reads {SCHEMA_VERSION}.")
        return msgspec.json.decode(content, type=Run)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ResultError(f"{path} is no result of `prfaas replay`: {error}.") from error
