"""Items of the state that `/console/events` tells, which the page and `prfaas top` show.

The state is sections of items by key. Every event has the items that are new or changed (`set`) and the keys that are gone
(`gone`), and the first event of a stream sets all. Sizes are bytes, moments are Unix time.
"""

from typing import Final

import msgspec

SCHEMA_VERSION: Final = 1
SOLE: Final = "-"
"""Key of the only item of a section."""
SLOT_S: Final = 10
"""Length of a time slot, s: its key is its moment divided by this."""
SLOTS: Final = 90
"""Slots that are kept: a quarter of an hour."""


class GatewayItem(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway that tells. Section `gateway`."""

    schema: int = SCHEMA_VERSION
    version: str
    site: str
    gateway: str
    models: tuple[str, ...]
    whole: bool
    """True: requests of all tenants are told. False: only those of the tenant whose key was sent."""
    keys: bool
    """True where the API wants a key."""
    running: int
    """Requests under way at this gateway, of those that are told."""
    hidden_workers: int = 0
    """Workers that are alive and not told, for want of room."""


class SchedulerItem(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduler that leads. Section `scheduler`, empty until one has answered."""

    name: str
    term: int
    policy: str
    threshold_tokens: float | None
    ttft_objective_s: float
    silent_s: float = 0.0
    """Time since its last answer, from some seconds on; 0 while it answers."""


class SiteItem(msgspec.Struct, frozen=True, kw_only=True):
    """Section `sites`, by name."""

    name: str
    own: bool
    prefill_workers: int
    decode_workers: int
    wait_s: float | None = None
    """Wait of the next prompt in the site's queue; None while it is not known."""
    placed: int = 0
    """Prompts placed there whose prefills are not over."""
    breaker: str = "closed"
    distrusted: bool = False


class LinkItem(msgspec.Struct, frozen=True, kw_only=True):
    """A directed link that KV takes. Section `links`, by `source.destination`."""

    source: str
    destination: str
    goodput_bytes_per_s: float
    budget_bytes_per_s: float | None
    sent_bytes_per_s: float | None
    owed_bytes: float
    """Bytes that it still owes for prompts placed at its source."""
    rtt_s: float
    jitter_s: float
    confidence: float
    age_s: float
    retransmit_share: float | None


class WorkerItem(msgspec.Struct, frozen=True, kw_only=True):
    """Section `workers`, by `site.role.name`."""

    site: str
    name: str
    role: str
    model: str
    running: int
    slots: int
    waiting: int
    cache_usage: float | None
    draining: bool


class RequestItem(msgspec.Struct, frozen=True, kw_only=True):
    """Section `requests`, by the gateway's own id."""

    id: str
    model: str
    arrived_unix_s: float
    prompt_tokens: int
    completion_tokens: int
    outcome: str
    """Empty while the prefill is under way."""
    prefill_site: str
    ttft_s: float | None
    duration_s: float | None
    """None while it runs."""
    status: int
    """0 while it runs."""
    error: str


class SlotItem(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of some seconds. Section `slots`, by number."""

    ended: dict[str, int]
    """Number of requests that ended by what became of them: an Outcome, or `failed`, `refused`, `rejected`, `left`."""
    ttft_count: int
    """Requests whose first token came."""
    ttft_p50_s: float | None = None
    ttft_p90_s: float | None = None


SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "gateway": GatewayItem,
    "scheduler": SchedulerItem,
    "sites": SiteItem,
    "links": LinkItem,
    "workers": WorkerItem,
    "requests": RequestItem,
    "slots": SlotItem,
}


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a request's way, in s since its arrival."""

    name: str
    place: str
    """Site, process or link where it took place."""
    start_s: float
    end_s: float
    detail: str = ""
    marks: tuple[float, ...] = ()
    """Moments within it: ends of chunks, arrivals of KV."""


class RequestDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `/console/requests/ID`: the request's waterfall."""

    request: RequestItem
    client_request_id: str
    reason: str
    """Sentence of the scheduler: why it was prefilled there."""
    decode_worker: str
    cached_tokens: int
    moves: int
    stages: tuple[Stage, ...]
    trace_id: str = ""


class ChangesEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the stream."""

    at_unix_s: float
    set: dict[str, dict[str, msgspec.Raw]] = {}
    gone: dict[str, tuple[str, ...]] = {}
