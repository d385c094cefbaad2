"""Configuration of the bandwidth probe."""

from typing import Annotated, ClassVar

from msgspec import Meta, field

from prfaas.process.config import ServiceConfig, SubjectToken


class BandwidthProbeConfig(ServiceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """prfaas-bandwidth-probe: answers the probes of other sites, and measures the links from its own."""

    role: ClassVar[str] = "bandwidth-probe"

    measures: tuple[SubjectToken, ...] = ()
    """Names of the pd sites that KV leaves this one for: the links to them are measured. Empty: the probe only answers."""
    egress_mbit: dict[SubjectToken, Annotated[float, Meta(gt=0)]] = field(default_factory=dict)
    """Egress budgets by pd site, in 10^6 bits a second, for all prefill workers of this site together. The workers get their
    parts from this process. A site that is not named has no budget."""
    leafs: dict[SubjectToken, Annotated[str, Meta(pattern=r"^.+:[0-9]+$")]] = field(default_factory=dict)
    """Addresses (`host:port`) that this site's nats-server dials, by pd site. Where server and probe share a network namespace,
    the kernel then says how many segments are sent again."""
    ping_interval_s: Annotated[float, Meta(gt=0)] = 1.0
    link_share: Annotated[float, Meta(gt=0, le=0.5)] = 0.01
    """Share of a link's goodput that its measurement may cost."""
    timeout_s: Annotated[float, Meta(gt=0)] = 3.0
    """Time after which a link that answers no probe has no estimate."""

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
        """Returns the budget of the link to `destination`; None: no budget."""
        mbit = self.egress_mbit.get(destination)
        return None if mbit is None else mbit * 1e6 / 8
