"""A WAN link on one machine: a TCP proxy with a rate, a delay and faults that change while it runs.

It shapes the payload of TCP streams; it does not speak TCP itself: no congestion control, no slow start and no handshake
delay. What does not fit into the link's queue stays with the sender, as its socket's back-pressure.
"""

from infra.wan.control import LinkChange, LinkStatus, change_link
from infra.wan.proxy import LinkState, WanProxy
from prfaas.site.link_shape import LinkShape

__all__ = ["LinkChange", "LinkShape", "LinkState", "LinkStatus", "WanProxy", "change_link"]
