"""The models that a gateway serves."""

from concurrent.futures import Executor
from dataclasses import dataclass

from jinja2 import TemplateSyntaxError

from prfaas.engine.model_directory import ModelFiles, WeightsError
from prfaas.engine.tokenizer_file import load_tokenizer
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.wall_clock import unix_s
from prfaas_gateway.config import GatewayConfig
from prfaas_gateway.openai.calls.families import FAMILIES, family_of
from prfaas_gateway.openai.calls.pieces import CallFamily
from prfaas_gateway.prompts import Prompts
from prfaas_gateway.sampling_defaults import SamplingDefaults, defaults_of
from prfaas_gateway.turns import Turns

log = get_logger(__name__)


def _call_family(parser: str, chat_template: str | None) -> CallFamily | None:
    return family_of(chat_template) if parser == "auto" else FAMILIES.get(parser)


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    name: str
    """Name by which services know the model."""
    served_names: tuple[str, ...]
    """Names by which clients know it. The first one stands in answers."""
    prompts: Prompts
    context_tokens: int
    sampling: SamplingDefaults
    call_family: CallFamily | None
    """Way in which the model calls tools; None: it takes none."""
    chat_stop: tuple[str, ...]
    """Strings that end a chat answer, beside the client's own."""
    fingerprint: str
    created: int
    """Unix time of the gateway's start, s."""

    @classmethod
    def load(cls, files: ModelFiles, config: GatewayConfig, executor: Executor, turns: Turns) -> "ServedModel":
        """Blocks: a tokenizer of 262,144 tokens takes about a second to load. `turns` are those of the executor's threads.

        Raises WeightsError."""
        sampling, not_taken = defaults_of(files.generation_config if config.generation_config == "auto" else {})
        if not_taken:
            log.warning("generation_config_not_taken_over", model=files.model, settings=not_taken)
        tokenizer = load_tokenizer(files)
        try:
            prompts = Prompts(
                tokenizer,
                files.chat_template,
                executor,
                files.max_context_tokens,
                turns,
                special_tokens=files.special_tokens,
                vocabulary_tokens=files.vocabulary_tokens,
            )
        except TemplateSyntaxError as error:
            raise WeightsError(f"the chat template of {files.model} is no Jinja: {error.message}, line {error.lineno}") from error
        return cls(
            name=files.model,
            served_names=config.served_model_name or (files.model,),
            prompts=prompts,
            sampling=sampling,
            call_family=_call_family(config.tool_call_parser, files.chat_template),
            context_tokens=files.max_context_tokens,
            chat_stop=files.chat_stop,
            fingerprint=f"fp_{files.config_xxh3_128[:12]}",
            created=int(unix_s()),
        )
