"""A WAN link on one machine: a TCP proxy with a rate, a delay and faults that change while it runs.

It shapes the payload of TCP streams; it does not speak TCP itself: no congestion control, no slow start and no handshake
delay. What does not fit into the link's queue stays with the sender, as its socket's back-pressure.
"""

from prfaas.site.link_shape import LinkShape
from prfaas.wan.control import LinkChange, LinkStatus, change_link
from prfaas.wan.proxy import LinkState, WanProxy

__all__ = ["LinkChange", "LinkShape", "LinkState", "LinkStatus", "WanProxy", "change_link"]
