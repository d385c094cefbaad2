"""The file that `prfaas plan` reads: sites, profiles, links, traffic and SLO, in TOML."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from prfaas.capacity.builtin import PROFILES
from prfaas.capacity.lengths import EmpiricalLengths, Lengths, TruncatedLogNormal
from prfaas.capacity.profiles import BITS_PER_BYTE, DecodePoint, Profile, ProfileError
from prfaas.planner.network import Link, Network, PdSite, PrfaasSite
from prfaas.planner.solver import TwoSites
from prfaas.planner.uncached import uncached_tokens
from prfaas.traces import TraceError, TraceRequest, read_trace

Positive = Annotated[float, msgspec.Meta(gt=0)]
CASES = Path(__file__).parent / "cases"


class DeploymentError(ValueError):
    """The deployment file is wrong; the message is a sentence that names the key."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    pass


class LogNormalTable(_Table, frozen=True, kw_only=True):
    mu: float
    sigma: Positive
    low_tokens: Positive
    high_tokens: Positive


class TraceTable(_Table, frozen=True, kw_only=True):
    file: str
    """Path, relative to the deployment file."""
    format: str | None = None
    """Name of a trace format; without it the file shows its format."""
    cache_tokens: Annotated[float, msgspec.Meta(ge=0)] = float("inf")
    """Size of the prefix cache whose hits are left out of the lengths; 0: no cache."""


class TrafficTable(_Table, frozen=True, kw_only=True):
    """Either `lognormal` or `trace`."""

    lognormal: LogNormalTable | None = None
    trace: TraceTable | None = None
    output_tokens: Positive | None = None
    """Mean; of a trace its own when not given."""
    rate_req_s: Positive | None = None
    """What has to be carried; without it a plan asks how much could be."""


class SloTable(_Table, frozen=True, kw_only=True):
    decode_tokens_per_s: Positive
    """What every running request gets; decides the batch."""
    ttft_p90_s: Positive | None = None


class DecodeRow(_Table, frozen=True, kw_only=True):
    batch: Annotated[int, msgspec.Meta(gt=0)]
    step_s: Positive


class ProfileTable(_Table, frozen=True, kw_only=True):
    """A profile of this file: read from `file`, or `base` (a built-in one) with changes."""

    name: str
    file: str | None = None
    base: str | None = None
    slowdown: Positive = 1.0
    decode: tuple[DecodeRow, ...] = ()


class SiteTable(_Table, frozen=True, kw_only=True):
    name: str
    kind: Literal["prfaas", "pd"]
    instances: Annotated[int, msgspec.Meta(ge=0)]
    profile: str
    """Of a `[[profile]]` of this file, or a built-in one."""
    cost: Positive = 1.0
    """Of one instance, in any unit that all sites share."""
    demand_share: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class LinkTable(_Table, frozen=True, kw_only=True):
    source: str
    destination: str
    gbit_s: Annotated[float, msgspec.Meta(ge=0)]


class Deployment(_Table, frozen=True, kw_only=True):
    traffic: TrafficTable
    slo: SloTable
    site: tuple[SiteTable, ...]
    link: tuple[LinkTable, ...] = ()
    profile: tuple[ProfileTable, ...] = ()

    @property
    def prfaas_sites(self) -> list[SiteTable]:
        return [site for site in self.site if site.kind == "prfaas"]

    @property
    def pd_sites(self) -> list[SiteTable]:
        return [site for site in self.site if site.kind == "pd"]

    @property
    def is_pair(self) -> bool:
        """One prfaas and one pd site: the paper's case."""
        return len(self.prfaas_sites) == len(self.pd_sites) == 1


class Loaded(msgspec.Struct, frozen=True):
    """A deployment with everything it refers to."""

    deployment: Deployment
    lengths: Lengths
    output_tokens: float
    profiles: Mapping[str, Profile]
    """By site."""

    def two_sites(self) -> TwoSites:
        """For Deployment.is_pair."""
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
    try:
        deployment = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Deployment)
    except OSError as error:
        raise DeploymentError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeploymentError(f"{path} is no TOML: {error}.") from error
    except msgspec.ValidationError as error:
        raise DeploymentError(f"{path}: {error}.") from error
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


def _check_names(deployment: Deployment, path: Path) -> None:
    names = [site.name for site in deployment.site]
    for name in names:
        if names.count(name) > 1:
            raise DeploymentError(f"{path}: two sites are called {name}.")
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
    outputs: list[int] = []

    def requests() -> Iterator[TraceRequest]:
        for request in read_trace(file, trace.format):
            outputs.append(request.output_tokens)
            yield request

    lengths = list(uncached_tokens(requests(), trace.cache_tokens))
    if not lengths:
        raise TraceError(f"trace {file} holds no request.")
    return EmpiricalLengths(lengths), table.output_tokens or max(sum(outputs) / len(outputs), 1.0)


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
    if site.kind == "pd" and not profile.decode:
        raise DeploymentError(f"{path}: site {site.name} decodes, but its profile {profile.name} has no decode points.")
    return profile


def _builtin(name: str, path: Path, own: Mapping[str, Profile] | None = None) -> Profile:
    if name not in PROFILES:
        raise ProfileError(f"{path}: there is no profile {name}; there are {', '.join(sorted({*PROFILES, *(own or {})}))}.")
    return PROFILES[name]
