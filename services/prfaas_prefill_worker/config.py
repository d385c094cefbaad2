"""Settings of the prefill worker."""

from typing import Annotated, ClassVar

from msgspec import Meta, field

from prfaas.contracts.terms import Role
from prfaas.engine.factory import EngineConfig
from prfaas.link.config import LinkConfig
from prfaas.process.config import ServiceConfig, SubjectToken
from prfaas.sealing.config import SealingConfig
from prfaas.sealing.keys import check_hash_key
from prfaas.worker.identity import Identity


class PrefillWorkerConfig(ServiceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """prfaas-prefill-worker: computes KV for its own site and for others."""

    role: ClassVar[str] = "prefill-worker"

    engine: EngineConfig = field(default_factory=EngineConfig)
    movable: bool = False
    """Lets the scheduler make it a decode worker: then the configuration must suit both roles."""
    link: LinkConfig = field(default_factory=LinkConfig)
    """Settings of the link to each decode site."""
    serves: Annotated[tuple[SubjectToken, ...], Meta(min_length=1)]
    """Pd sites whose schedulers may place prompts here; the worker announces itself to each."""
    prefix_cache_mib: Annotated[int, Meta(ge=0)] = 512
    """Memory for the KV of earlier prompts' blocks, of `engine.chunk-tokens` each; 0 keeps none."""
    prefix_cache_disk_mib: Annotated[int, Meta(ge=0)] = 0
    """Disk space for the same blocks, beneath the memory: what was pushed out of it, or lost by a restart, is read back."""
    prefix_cache_disk_directory: str = ""
    """Directory for these, this worker's own. Who reads it can learn the prompts: docs/security.md."""
    prefill_memory_mib: Annotated[int, Meta(ge=0)] = 0
    """Memory that one prefill may take; a longer one is refused before it begins. 0: what host, container or device have free."""
    unsent_mib: Annotated[int, Meta(ge=1)] = 64
    """KV that prefill may compute ahead of the link; then it waits."""
    block_hash_key_file: str = ""
    """File with the key of block hashes, the same for all gateways and workers; empty: who sees a hash can guess its prompt."""
    sealing: SealingConfig = field(default_factory=SealingConfig)
    """Decode sites whose jobs and KV are sealed, and the keys. Their plain jobs are refused."""
    idle_timeout_s: Annotated[float, Meta(gt=0)] = 5.0
    """Standstill of the link after which a transfer fails."""
    tails: Annotated[int, Meta(ge=1)] = 2
    """Transfers whose prefill is over and whose last frames are still on the link; at this number the next job waits."""

    @property
    def identity(self) -> Identity:
        return Identity(self.site, self.name, Role.PREFILL)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_hash_key(self.block_hash_key_file)
        if self.prefix_cache_disk_mib and not self.prefix_cache_disk_directory:
            raise ValueError("`prefix-cache-disk-mib` needs a `prefix-cache-disk-directory`")
        if self.prefix_cache_disk_mib and not self.prefix_cache_mib:
            raise ValueError("`prefix-cache-disk-mib` needs a `prefix-cache-mib`: what is read from disk goes into memory")
        if self.bulk is None:
            raise ValueError("a prefill worker ships KV: it needs a `bulk` endpoint")
