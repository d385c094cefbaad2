"""What an operator can set."""

from typing import Annotated, ClassVar

from msgspec import Meta, field

from prfaas.process.config import ServiceConfig, SubjectToken


class BandwidthProbeConfig(ServiceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """prfaas-bandwidth-probe: answers the probes of other sites, and measures the links from its own."""

    role: ClassVar[str] = "bandwidth-probe"

    measures: tuple[SubjectToken, ...] = ()
    """The pd sites that KV leaves this one for; each gets an estimate of the link to it. Empty: it only answers."""
    egress_mbit: dict[SubjectToken, Annotated[float, Meta(gt=0)]] = field(default_factory=dict)
    """By pd site: 10^6 bits a second that may leave this site for it, of all its prefill workers together. The workers get their
    parts from this process. A site that is not named has no budget."""
    leafs: dict[SubjectToken, Annotated[str, Meta(pattern=r"^.+:[0-9]+$")]] = field(default_factory=dict)
    """By pd site: `host:port` that this site's nats-server dials. Where server and probe share a network namespace, the kernel
    then says how many segments are sent again."""
    ping_interval_s: Annotated[float, Meta(gt=0)] = 1.0
    link_share: Annotated[float, Meta(gt=0, le=0.5)] = 0.01
    """How much of a link's goodput its measurement may cost."""
    timeout_s: Annotated[float, Meta(gt=0)] = 3.0
    """A link that answers no probe for so long has no estimate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bulk is None:
            raise ValueError("a bandwidth probe measures the bulk account: it needs a `bulk` endpoint")
        if self.site in self.measures:
            raise ValueError(f"a bandwidth probe measures links to other sites, but `measures` names its own, {self.site!r}")
        if unmeasured := [site for site in self.egress_mbit if site not in self.measures]:
            raise ValueError(f"`egress-mbit` names {unmeasured[0]!r}, but `measures` has no such site")
        if unmeasured := [site for site in self.leafs if site not in self.measures]:
            raise ValueError(f"`leafs` names {unmeasured[0]!r}, but `measures` has no such site")

    def egress_bytes_per_s(self, destination: str) -> float | None:
        """None: no budget."""
        mbit = self.egress_mbit.get(destination)
        return None if mbit is None else mbit * 1e6 / 8
