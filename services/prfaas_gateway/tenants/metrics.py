"""Metrics of tenants, which name them only where an operator asks for it."""

from prometheus_client import CollectorRegistry, Counter

from prfaas_gateway.tenants.directory import KeyRefusedWhy, Tenant
from prfaas_gateway.tenants.usage import Limit


class TenantMetrics:
    def __init__(self, registry: CollectorRegistry, *, named: bool) -> None:
        """Leaves the label `tenant` empty without `named`: each series is then the sum of all tenants."""
        self._named = named
        self._tokens = Counter("prfaas_tenant_tokens", "Tokens of prompts and answers, by tenant.", ["tenant"], registry=registry)
        self._tokens_by_label: dict[str, Counter] = {}
        """Series of tokens by label: each token of an answer is counted, and finding a series costs more than that."""
        self._link_bytes = Counter(
            "prfaas_tenant_link_bytes", "Bytes of KV that crossed a link, by tenant.", ["tenant"], registry=registry
        )
        self._refusals = Counter(
            "prfaas_tenant_refusals", "Requests refused for a tenant's limit.", ["tenant", "limit"], registry=registry
        )
        self._keys_refused = Counter("prfaas_keys_refused", "Requests refused for their API key.", ["why"], registry=registry)
        self._reloads = Counter(
            "prfaas_tenants_file_reloads",
            "Changes of the tenants file, by what became of them.",
            ["result"],
            registry=registry,
        )

    def tokens(self, tenant: Tenant, count: int) -> None:
        label = self._label(tenant)
        if (series := self._tokens_by_label.get(label)) is None:
            series = self._tokens_by_label[label] = self._tokens.labels(label)
        series.inc(count)

    def link_bytes(self, tenant: Tenant, count: int) -> None:
        self._link_bytes.labels(self._label(tenant)).inc(count)

    def limit_reached(self, tenant: Tenant, limit: Limit) -> None:
        self._refusals.labels(self._label(tenant), limit.value).inc()

    def key_refused(self, why: KeyRefusedWhy) -> None:
        self._keys_refused.labels(why.value).inc()

    def reloaded(self, result: str) -> None:
        """Counts `taken` or `refused`."""
        self._reloads.labels(result).inc()

    def _label(self, tenant: Tenant) -> str:
        return tenant.name if self._named else ""
