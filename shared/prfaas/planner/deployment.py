"""Deployment file of `prfaas plan`: sites, profiles, links, traffic and SLO, in TOML.

Every number has bounds: within them the solvers end, and their results mean something.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from prfaas.capacity.builtin import PROFILES
from prfaas.capacity.lengths import EmpiricalLengths, Lengths, TruncatedLogNormal
from prfaas.capacity.profiles import BITS_PER_BYTE, MAX_POINTS, DecodePoint, Profile, ProfileError
from prfaas.capacity.small_file import read_small
from prfaas.planner.network import Link, Network, PdSite, PrfaasSite
from prfaas.planner.solver import TwoSites
from prfaas.planner.uncached import uncached_tokens
from prfaas.traces import TraceError, TraceRequest, read_trace

Name = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=128)]
Tokens = Annotated[float, msgspec.Meta(ge=1e-3, le=1e8)]
Seconds = Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)]
Rate = Annotated[float, msgspec.Meta(ge=1e-6, le=1e9)]
Factor = Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)]
MAX_INSTANCES = 1024
"""Instances of one site: every split of a pd site's between its two roles is tried."""
MAX_SITES, MAX_LINKS, MAX_PROFILES = 32, 128, 256
CASES = Path(__file__).parent / "cases"


class DeploymentError(ValueError):
    """Raised for a wrong deployment file; the message is a sentence that names the key."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    pass


class LogNormalTable(_Table, frozen=True, kw_only=True):
    mu: Annotated[float, msgspec.Meta(ge=-100, le=100)]
    sigma: Annotated[float, msgspec.Meta(gt=0, le=20)]
    low_tokens: Tokens
    high_tokens: Tokens


class TraceTable(_Table, frozen=True, kw_only=True):
    file: Annotated[str, msgspec.Meta(max_length=4096)]
    """Path, relative to the deployment file."""
    format: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    """Name of a trace format; without it the file shows its format."""
    cache_tokens: Annotated[float, msgspec.Meta(ge=0)] = float("inf")
    """Size of the prefix cache, whose hits are left out of the lengths; 0: no cache."""


class TrafficTable(_Table, frozen=True, kw_only=True):
    """Traffic from either `lognormal` or `trace`."""

    lognormal: LogNormalTable | None = None
    trace: TraceTable | None = None
    output_tokens: Tokens | None = None
    """Mean length of answers; a trace has its own."""
    rate_req_s: Rate | None = None
    """Rate that has to be carried; without it the plan says how much could be."""


class SloTable(_Table, frozen=True, kw_only=True):
    decode_tokens_per_s: Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)]
    """Decode rate of every running request; decides the batch."""
    ttft_p90_s: Seconds | None = None


class DecodeRow(_Table, frozen=True, kw_only=True):
    batch: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    step_s: Annotated[float, msgspec.Meta(ge=1e-6, le=1e4)]


class ProfileTable(_Table, frozen=True, kw_only=True):
    """Profile of this file: read from `file`, or `base` (a built-in one) with changes."""

    name: Name
    file: str | None = None
    base: str | None = None
    slowdown: Factor = 1.0
    decode: Annotated[tuple[DecodeRow, ...], msgspec.Meta(max_length=MAX_POINTS)] = ()


class SiteTable(_Table, frozen=True, kw_only=True):
    name: Name
    kind: Literal["prfaas", "pd"]
    instances: Annotated[int, msgspec.Meta(ge=0, le=MAX_INSTANCES)]
    profile: Name
    """Name of a `[[profile]]` of this file, or of a built-in one."""
    cost: Factor = 1.0
    """Cost of one instance, in any unit that all sites share."""
    demand_share: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class LinkTable(_Table, frozen=True, kw_only=True):
    source: Name
    destination: Name
    gbit_s: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    """Rate of the link; 0: it is cut."""


class Deployment(_Table, frozen=True, kw_only=True):
    traffic: TrafficTable
    slo: SloTable
    site: Annotated[tuple[SiteTable, ...], msgspec.Meta(max_length=MAX_SITES)]
    link: Annotated[tuple[LinkTable, ...], msgspec.Meta(max_length=MAX_LINKS)] = ()
    profile: Annotated[tuple[ProfileTable, ...], msgspec.Meta(max_length=MAX_PROFILES)] = ()

    @property
    def prfaas_sites(self) -> list[SiteTable]:
        return [site for site in self.site if site.kind == "prfaas"]

    @property
    def pd_sites(self) -> list[SiteTable]:
        return [site for site in self.site if site.kind == "pd"]

    @property
    def is_pair(self) -> bool:
        """True when there is one prfaas and one pd site: the paper's case."""
        return len(self.prfaas_sites) == len(self.pd_sites) == 1


class Loaded(msgspec.Struct, frozen=True):
    """Deployment with everything that it refers to."""

    deployment: Deployment
    lengths: Lengths
    output_tokens: float
    profiles: Mapping[str, Profile]
    """Profile of each site, by its name."""

    def two_sites(self) -> TwoSites:
        """Returns the case of a deployment that is a pair."""
        (prfaas,), (pd,) = self.deployment.prfaas_sites, self.deployment.pd_sites
        egress = sum(link.gbit_s for link in self.deployment.link if (link.source, link.destination) == (prfaas.name, pd.name))
        return TwoSites(
            lengths=self.lengths,
            output_tokens=self.output_tokens,
            prfaas=self.profiles[prfaas.name],
            n_prfaas=prfaas.instances,
            pd=self.profiles[pd.name],
            n_pd=pd.instances,
            egress_bytes_per_s=egress * 1e9 / BITS_PER_BYTE,
            decode_tokens_per_s=self.deployment.slo.decode_tokens_per_s,
        )

    def network(self) -> Network:
        return Network(
            prfaas=[PrfaasSite(site.name, site.instances, self.profiles[site.name]) for site in self.deployment.prfaas_sites],
            pd=[
                PdSite(site.name, site.instances, self.profiles[site.name], site.demand_share)
                for site in self.deployment.pd_sites
            ],
            links=[Link(link.source, link.destination, link.gbit_s * 1e9 / BITS_PER_BYTE) for link in self.deployment.link],
            lengths=self.lengths,
            output_tokens=self.output_tokens,
            decode_tokens_per_s=self.deployment.slo.decode_tokens_per_s,
        )


def load_deployment(path: Path) -> Loaded:
    """Raises DeploymentError, ProfileError, TraceError; PlanError comes later, from the solver."""
    deployment = _parse(read_deployment(path), path)
    _check_names(deployment, path)
    lengths, output_tokens = _traffic(deployment.traffic, path)
    own = {table.name: _profile(table, path) for table in deployment.profile}
    profiles = {site.name: _find_profile(site, own, path) for site in deployment.site}
    for site in deployment.pd_sites:
        if not profiles[site.name].batch_max(deployment.slo.decode_tokens_per_s):
            raise DeploymentError(
                f"{path}: site {site.name} cannot keep {deployment.slo.decode_tokens_per_s:g} tokens/s even with one request: "
                f"a step takes {profiles[site.name].step_s(1) * 1e3:.0f} ms."
            )
    return Loaded(deployment, lengths, output_tokens, profiles)


def read_deployment(path: Path) -> str:
    """Raises DeploymentError."""
    try:
        return read_small(path).decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise DeploymentError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DeploymentError(
            f"{path} is no TOML: it is not UTF-8, byte {error.start + 1} is 0x{error.object[error.start]:02x}."
        ) from error
    except ValueError as error:
        raise DeploymentError(f"{str(path)!r} cannot be read: {error}.") from error


def _parse(text: str, path: Path) -> Deployment:
    try:
        # As Python does with all text: TOML itself knows no lone carriage return.
        tables = tomllib.loads(text.replace("\r\n", "\n"))
    except RecursionError:
        raise DeploymentError(f"{path} is no TOML that can be read: it is nested too deeply.") from None
    except ValueError as error:  # also for numbers with more digits than Python reads
        raise DeploymentError(f"{path} is no TOML: {str(error).rstrip('.')}.") from error
    try:
        return msgspec.convert(tables, Deployment)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise DeploymentError(f"{path}: {str(error).rstrip('.')}.") from error


def _check_names(deployment: Deployment, path: Path) -> None:
    names = [site.name for site in deployment.site]
    for kind, called in (("site", names), ("profile", [profile.name for profile in deployment.profile])):
        for name in called:
            if called.count(name) > 1:
                raise DeploymentError(f"{path}: two {kind}s are called {name}.")
    if not deployment.pd_sites:
        raise DeploymentError(f"{path}: no site is of kind pd, so nobody would decode.")
    for site in deployment.pd_sites:
        if site.instances < 2:
            raise DeploymentError(
                f"{path}: pd site {site.name} needs an instance for prefill and one for decode, but it has {site.instances}."
            )
    for link in deployment.link:
        for end in (link.source, link.destination):
            if end not in names:
                raise DeploymentError(
                    f"{path}: link {link.source}->{link.destination} names {end}, but sites are {', '.join(names)}."
                )


def _traffic(table: TrafficTable, path: Path) -> tuple[Lengths, float]:
    if (table.lognormal is None) == (table.trace is None):
        raise DeploymentError(f"{path}: [traffic] needs either `lognormal` or `trace`, and not both.")
    if table.lognormal is not None:
        if table.output_tokens is None:
            raise DeploymentError(f"{path}: [traffic] needs `output-tokens`, the mean, beside `lognormal`.")
        try:
            return TruncatedLogNormal(**msgspec.structs.asdict(table.lognormal)), table.output_tokens
        except ValueError as error:
            raise DeploymentError(f"{path}: [traffic] {error}") from error
    return _trace_traffic(table, path)


def _trace_traffic(table: TrafficTable, path: Path) -> tuple[Lengths, float]:
    trace = table.trace
    assert trace is not None
    file = path.parent / trace.file
    count = output_tokens = 0

    def requests() -> Iterator[TraceRequest]:
        nonlocal count, output_tokens
        for request in read_trace(file, trace.format):
            count += 1
            output_tokens += request.output_tokens
            yield request

    try:
        lengths = EmpiricalLengths(uncached_tokens(requests(), trace.cache_tokens))
    except TraceError:
        raise
    except ValueError:  # there is no length
        raise TraceError(file, "the file holds no request") from None
    return lengths, table.output_tokens or max(output_tokens / count, 1.0)


def _profile(table: ProfileTable, path: Path) -> Profile:
    if (table.file is None) == (table.base is None):
        raise DeploymentError(f"{path}: profile {table.name} needs either `file` or `base`, and not both.")
    profile = Profile.load(path.parent / table.file) if table.file is not None else _builtin(table.base or "", path)
    if table.slowdown != 1.0:
        profile = profile.slowed(table.slowdown, table.name)
    if table.decode:
        decode = tuple(DecodePoint(batch=row.batch, step_s=row.step_s) for row in table.decode)
        profile = msgspec.structs.replace(
            profile, decode=decode, batch_limit=0, source=f"Decode as given in {path.name}. {profile.source}"
        )
    return msgspec.structs.replace(profile, name=table.name)


def _find_profile(site: SiteTable, own: Mapping[str, Profile], path: Path) -> Profile:
    profile = own.get(site.profile) or _builtin(site.profile, path, own)
    try:
        profile.check_possible()
    except ProfileError as error:
        raise ProfileError(f"{path}: site {site.name}: {error}") from error
    if site.kind == "pd" and not profile.decode:
        raise DeploymentError(f"{path}: site {site.name} decodes, but its profile {profile.name} has no decode points.")
    return profile


def _builtin(name: str, path: Path, own: Mapping[str, Profile] | None = None) -> Profile:
    if name not in PROFILES:
        raise ProfileError(f"{path}: there is no profile {name}; there are {', '.join(sorted({*PROFILES, *(own or {})}))}.")
    return PROFILES[name]
