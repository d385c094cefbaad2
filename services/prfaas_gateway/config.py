"""Keys of the gateway's configuration."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from prfaas.engine.model_reference import model_name
from prfaas.process.config import ConfigError, ServiceConfig
from prfaas.sealing.keys import check_hash_key
from prfaas.secrets.tenants_file import TenantsError, load_tenants

Seconds = Annotated[float, Meta(gt=0)]


class GatewayConfig(ServiceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """prfaas-gateway: the OpenAI-compatible HTTP edge of a site."""

    role: ClassVar[str] = "gateway"

    models: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Models to serve, each as the workers' `engine.model` has it: a name, a directory, or a repository of a hub."""
    served_model_name: tuple[str, ...] = ()
    """Names by which clients know the model, where there is one in `models`, instead of its own: the last component of its path.
    The first one stands in answers."""
    generation_config: Literal["auto", "vllm"] = "auto"
    """`auto`: requests that do not say how to sample are sampled as a model's generation_config.json says. `vllm`: as OpenAI's
    defaults say, whatever the model. vLLM has this option by the same name."""
    tool_call_parser: Literal["auto", "hermes", "llama3_json", "mistral", "pythonic", "none"] = "auto"
    """Way in which the models write calls of tools, by vLLM's names. `auto`: as chat templates tell. `none`: they call none."""
    ignore_unknown_fields: bool = False
    """True: fields of a request that no API has are left out, as vLLM does, counted and logged at debug. False: they are refused
    by name. Fields that are known and not served are refused either way."""
    tenants_file: str | None = None
    """TOML file, mode 0600, of tenants, their limits and hashes of their API keys (`prfaas keys`). Unset: all clients may ask."""
    tenant_gateways: Annotated[int, Meta(ge=1)] = 1
    """Gateways of the site, of which each grants an equal part of every tenant's limits."""
    tenant_metrics: bool = False
    """Names of tenants in metrics; otherwise only sums over all tenants."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the API from a browser, such as `https://chat.example.org`; `*`: all. Empty: none."""
    console: bool = True
    """A page at `/console` that shows the running system, behind an API key where those are set; false: no such path."""
    console_tenants: tuple[str, ...] = ()
    """Tenants whose keys show the requests of all in the console. A key of any other shows the fleet and its own requests."""
    console_viewers: Annotated[int, Meta(ge=1, le=1024)] = 16
    """Most viewers of the console at once, of whom one client is at most half."""
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 4 * 2**20
    """A larger request is refused with 413."""
    max_bodies_mib: Annotated[int, Meta(ge=1)] = 128
    """Memory for bodies that arrive or wait to be parsed. Beyond it the client that holds the most loses its oldest (408)."""
    max_requests: Annotated[int, Meta(ge=1)] = 512
    """Requests in flight; one more is refused with 429. Requests whose bodies still arrive are counted apart, up to as many."""
    max_choices: Annotated[int, Meta(ge=1, le=128)] = 32
    """Most answers of one request: its prompts times `n` or `best_of`. Each counts as a request in flight."""
    default_max_tokens: Annotated[int, Meta(ge=1)] = 1024
    """Length of a chat answer whose request does not say; a plain completion's is 16, as OpenAI's."""
    ttft_deadline_s: Seconds = 30.0
    """Time from the complete request to its first token; a request may set its own by `x-prfaas-ttft-deadline-s`."""
    max_ttft_deadline_s: Seconds = 600.0
    """Longest `x-prfaas-ttft-deadline-s` that a request may ask for."""
    idle_deadline_s: Seconds = 30.0
    """Time between two events of a running answer; later it fails."""
    worker_grace_s: Seconds = 5.0
    """Time from the end of a decode worker's heartbeat until its requests are placed again."""
    read_deadline_s: Seconds = 30.0
    """Time for a request's body to arrive."""
    write_deadline_s: Seconds = 30.0
    """Time for which a client may read nothing of its answer."""
    control_deadline_s: Seconds = 5.0
    """Time for one reply of the scheduler or of a decode worker; the scheduler is asked again within `ttft-deadline-s`."""
    unscheduled_after_s: Annotated[float, Meta(ge=0)] = 1.0
    """Silence of all schedulers after which the gateway places short prompts by itself, at home."""
    unscheduled_tokens: Annotated[int, Meta(ge=0)] = 2048
    """Longest prompt that it places so; longer ones wait for a scheduler. 0: all wait."""
    unscheduled_requests: Annotated[int, Meta(ge=1)] = 16
    """Most requests in flight that it has placed so."""
    drain_notice_s: Annotated[float, Meta(ge=0)] = 0.0
    """Part of `drain-s` in which the gateway says that it is not ready and takes new connections all the same: a proxy that looks
    at `/ready` needs so long to send its requests elsewhere."""
    tokenizer_threads: Annotated[int, Meta(ge=1)] = 1
    """Threads for prompts that are too long for the event loop; bodies above 64 KiB are read in a process of their own."""

    block_tokens: Annotated[int, Meta(ge=1)] = 512
    """Length of the blocks that cached prefixes are found by: the workers' `engine.chunk-tokens`, else none is found."""
    block_hash_key_file: str = ""
    """File with the key of block hashes, the same for all gateways and workers; empty: who sees a hash can guess its prompt."""

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names by which services know the models."""
        return tuple(map(model_name, self.models))

    def check_files(self) -> None:
        super().check_files()
        if self.tenants_file is not None:
            try:
                load_tenants(Path(self.tenants_file))
            except TenantsError as error:
                raise ConfigError(f"key `tenants-file`: {error}.") from error

    def __post_init__(self) -> None:
        super().__post_init__()
        check_hash_key(self.block_hash_key_file)
        if self.served_model_name and len(self.models) > 1:
            raise ValueError(f"`served-model-name` is for one model, and `models` has {len(self.models)}")
        if len(set(self.model_names)) < len(self.models):
            raise ValueError(f"`models` has two of the same name: {', '.join(self.model_names)}")
        if self.ttft_deadline_s > self.max_ttft_deadline_s:
            raise ValueError(f"`ttft-deadline-s` is {self.ttft_deadline_s:g}, more than `max-ttft-deadline-s`")
