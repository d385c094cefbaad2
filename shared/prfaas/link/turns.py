"""Fair turns of the transfers that share a link. Pure; keys are the caller's.

Start-time fair queueing on two levels: tenants, then the transfers of a tenant. A transfer that joins starts at the virtual time
of the one served now. A transfer whose decode waits on it weighs more, and no transfer of a request starves. Those in the
background have their turns while no request has anything to send.
"""

URGENT_WEIGHT = 8.0
"""Turns of a transfer whose decode waits on it, per turn of one whose prefill still runs."""


class _Tenant:
    __slots__ = ("flows", "served", "virtual")

    def __init__(self, virtual: float) -> None:
        self.virtual = virtual
        self.served = 0.0
        """Virtual time of the flow that was served last."""
        self.flows = 0


class _Flow:
    __slots__ = ("background", "head_bytes", "tenant", "urgent", "virtual")

    def __init__(self, tenant: _Tenant, *, background: bool) -> None:
        self.tenant = tenant
        self.background = background
        self.virtual = tenant.served
        self.head_bytes = 0
        self.urgent = False


class Turns:
    def __init__(self) -> None:
        self._flows: dict[int, _Flow] = {}
        self._tenants: dict[str, _Tenant] = {}
        self._served = 0.0
        """Virtual time of the tenant that was served last."""

    def __len__(self) -> int:
        return len(self._flows)

    def join(self, key: int, tenant: str, *, background: bool = False) -> None:
        owner = self._tenants.setdefault(tenant, _Tenant(self._served))
        owner.flows += 1
        self._flows[key] = _Flow(owner, background=background)

    def leave(self, key: int) -> None:
        flow = self._flows.pop(key, None)
        if flow is None:
            return
        flow.tenant.flows -= 1
        self._tenants = {name: tenant for name, tenant in self._tenants.items() if tenant.flows}

    def offer(self, key: int, head_bytes: int, *, urgent: bool) -> None:
        """Replaces what the flow would send next; `head_bytes` is 0 when it has nothing to send."""
        flow = self._flows[key]
        if head_bytes and not flow.head_bytes:
            # Silence earns no credit: a flow that paused goes on at the present.
            flow.tenant.virtual = max(flow.tenant.virtual, self._served)
            flow.virtual = max(flow.virtual, flow.tenant.served)
        flow.head_bytes, flow.urgent = head_bytes, urgent

    def next(self) -> int | None:
        """Key of the flow whose turn it is; None when no flow has anything to send."""
        waiting = [
            (flow.background, 0.0 if flow.background else flow.tenant.virtual, flow.virtual, key)
            for key, flow in self._flows.items()
            if flow.head_bytes
        ]
        return min(waiting)[3] if waiting else None

    def serve(self, key: int) -> int:
        """Charges the flow for its head. Returns the head's size in bytes."""
        flow = self._flows[key]
        if flow.background:  # its tenant's requests do not pay for it
            flow.virtual += flow.head_bytes
            return flow.head_bytes
        cost = flow.head_bytes / (URGENT_WEIGHT if flow.urgent else 1.0)
        self._served, flow.tenant.served = flow.tenant.virtual, flow.virtual
        flow.tenant.virtual += cost
        flow.virtual += cost
        return flow.head_bytes

    def validate(self) -> None:
        assert sum(tenant.flows for tenant in self._tenants.values()) == len(self._flows)
        assert all(tenant.flows > 0 for tenant in self._tenants.values())
