"""Settings of the decode worker."""

from typing import Annotated, ClassVar

from msgspec import Meta, field

from prfaas.bus.bulk.bucket import DEFAULT_BUCKET_MIB
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role
from prfaas.engine.factory import EngineConfig
from prfaas.process.config import ServiceConfig, SubjectToken
from prfaas.sealing.config import SealingConfig
from prfaas.sealing.keys import check_hash_key
from prfaas.worker.identity import Identity


class DecodeWorkerConfig(ServiceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """prfaas-decode-worker: receives KV, batches, streams tokens."""

    role: ClassVar[str] = "decode-worker"

    engine: EngineConfig = field(default_factory=EngineConfig)
    movable: bool = False
    """Lets the scheduler make it a prefill worker: then the configuration must suit both roles."""
    slots: Annotated[int, Meta(ge=1)] = 32
    """Requests in the batch."""
    coming: Annotated[int, Meta(ge=1)] = 32
    """Requests whose KV may be under way, or wait for a prefill, beside the batch."""
    waiting: Annotated[int, Meta(ge=0)] = 64
    """Requests that may wait for a slot; more are refused."""
    cache_mib: Annotated[int, Meta(ge=1)] = 4096
    """Memory for KV caches."""
    prefix_cache_mib: Annotated[int, Meta(ge=0)] = 512
    """Memory for the full layers' KV of prompts that were served, in blocks of `engine.chunk-tokens`; 0 keeps none."""
    bucket_mib: Annotated[int, Meta(ge=16)] = DEFAULT_BUCKET_MIB
    """Memory of the site's NATS server for KV under way, of all decode workers together. Each site that may send KV has an equal
    part and can fill no other."""
    prefill_sites: tuple[SubjectToken, ...] = ()
    """Sites that may send KV here, beside the own one."""
    bucket_ttl_s: Annotated[float, Meta(ge=1)] = 120.0
    """Age at which the server drops what was not deleted."""
    block_hash_key_file: str = ""
    """File with the key of block hashes, the same for all gateways and workers; empty: who sees a hash can guess its prompt."""
    sealing: SealingConfig = field(default_factory=SealingConfig)
    """Prefill sites whose jobs and KV are sealed, and the keys."""
    idle_timeout_s: Annotated[float, Meta(gt=0)] = 10.0
    """Time without a frame after which a transfer that has begun is given up; slow chunks must fit in."""

    @property
    def identity(self) -> Identity:
        return Identity(self.site, self.name, Role.DECODE)

    audit_share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Share of the prompts prefilled by other sites that is prefilled at home too, and compared."""
    audits_at_once: Annotated[int, Meta(ge=1)] = 1
    """Prompts drawn for an audit that have no result yet; one more is not audited."""
    audit_mib: Annotated[int, Meta(ge=1)] = 1024
    """Memory for KV that waits to be compared; what does not fit is not audited."""
    audit_timeout_s: Annotated[float, Meta(gt=0)] = 120.0
    """Time for the second prefill, which waits until local workers have nothing else to do; then the audit is dropped."""
    audit_tolerance: Annotated[float, Meta(ge=0)] | None = None
    """Largest relative difference of one token's keys or values that still agrees; unset: by dtype. 0 where all processors are
    of one kind."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_hash_key(self.block_hash_key_file)
        if self.bulk is None:
            raise ValueError("a decode worker receives KV: it needs a `bulk` endpoint")

    def buckets(self) -> list[tuple[str, int]]:
        """Name and bytes of the bucket of each site that may send KV here."""
        senders = [self.site, *(site for site in self.prefill_sites if site != self.site)]
        return [(subjects.kv_bucket(self.site, sender), (self.bucket_mib << 20) // len(senders)) for sender in senders]
