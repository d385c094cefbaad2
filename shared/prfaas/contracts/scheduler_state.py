"""State of a site's leading scheduler, as it answers who asks: what it places by, and what it knows of sites and links."""

from typing import Annotated

import msgspec
from msgspec import Meta

from prfaas.contracts.fields import Count, Label, Seconds, Size, SubjectToken
from prfaas.contracts.to_scheduler import LinkEstimate

MAX_SITES = 256
"""Sites in one answer."""


class SiteState(msgspec.Struct, frozen=True, kw_only=True):
    """One site where prompts can be prefilled."""

    site: SubjectToken
    wait_s: Seconds = 0.0
    """Wait of the next prompt in the site's queue."""
    placed: Count = 0
    """Prompts that this scheduler has placed there and whose prefills are not over."""
    owed_bytes: Size = 0.0
    """KV bytes that the link from there still owes for them."""
    breaker: Label = "closed"
    """`closed`, `open` or `half_open`."""
    distrusted: bool = False
    """True while it gets no prompts because its KV was found wrong."""


class SchedulerState(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to `subjects.scheduler_state`."""

    name: SubjectToken
    term: Count
    policy: Label
    threshold_tokens: Size | None = None
    """Uncached tokens above which prompts are offloaded; None: the policy has no such number."""
    ttft_objective_s: Seconds
    sites: Annotated[tuple[SiteState, ...], Meta(max_length=MAX_SITES)] = ()
    links: Annotated[tuple[LinkEstimate, ...], Meta(max_length=MAX_SITES)] = ()
    """Links that end at this site, as far as something is known of them now."""
