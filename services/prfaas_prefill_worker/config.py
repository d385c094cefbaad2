"""Settings of the prefill worker."""

from typing import Annotated, ClassVar

from msgspec import Meta, field

from prfaas.bus.bulk.bucket import DEFAULT_PULL_BUCKET_MIB
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
    cache_pulls: bool = True
    """Lets the worker pull cached prefixes from other workers of its site, and send its own to theirs."""
    pulls_from: tuple[SubjectToken, ...] = ()
    """Other sites from whose workers it may pull too. What such a site has made wrong then harms prompts of this one."""
    pulled_by: tuple[SubjectToken, ...] = ()
    """Other sites whose workers may pull from this one: those that name it in their `pulls-from`."""
    pull_bucket_mib: Annotated[int, Meta(ge=16)] = DEFAULT_PULL_BUCKET_MIB
    """Memory of the site's NATS server for prefixes on their way, of all its prefill workers together. Each site that they may
    come from has an equal part."""
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

    @property
    def pulled_sites(self) -> tuple[str, ...]:
        """Sites whose workers may be asked for prefixes."""
        return (self.site, *(site for site in self.pulls_from if site != self.site)) if self.cache_pulls else ()

    @property
    def asking_sites(self) -> tuple[str, ...]:
        """Sites whose workers may ask this one."""
        return (self.site, *(site for site in self.pulled_by if site != self.site)) if self.cache_pulls else ()

    @property
    def pull_bucket_bytes(self) -> int:
        """Size of the bucket of each of `pulled_sites`."""
        return (self.pull_bucket_mib << 20) // max(1, len(self.pulled_sites))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_hash_key(self.block_hash_key_file)
        if self.prefix_cache_disk_mib and not self.prefix_cache_disk_directory:
            raise ValueError("`prefix-cache-disk-mib` needs a `prefix-cache-disk-directory`")
        if self.prefix_cache_disk_mib and not self.prefix_cache_mib:
            raise ValueError("`prefix-cache-disk-mib` needs a `prefix-cache-mib`: what is read from disk goes into memory")
        if self.bulk is None:
            raise ValueError("a prefill worker ships KV: it needs a `bulk` endpoint")
