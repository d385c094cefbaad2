"""Settings of a link."""

import msgspec


class LinkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    window_gain: float = 1.25
    min_window_bytes: int = 1 << 20
    max_window_bytes: int = 16 << 20
    frame_bytes: int = 1 << 20
    """Largest frame; smaller ones are cut when the window is small."""
    egress_bytes_per_s: float | None = None
    """Rate of this process while no probe shares the link out; None: unbounded. The budget of a link, for all processes of a site
    together, is `egress-mbit` of the site's bandwidth probe."""
