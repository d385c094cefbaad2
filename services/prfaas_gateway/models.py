"""The models that a gateway serves."""

from concurrent.futures import Executor
from dataclasses import dataclass

from tokenizers import Tokenizer

from prfaas.engine.weights import ModelFiles
from prfaas.telemetry.wall_clock import unix_s
from prfaas_gateway.prompts import Prompts
from prfaas_gateway.turns import Turns


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    name: str
    prompts: Prompts
    context_tokens: int
    chat_stop: tuple[str, ...]
    """Strings that end a chat answer, beside the client's own."""
    fingerprint: str
    created: int
    """Unix time of the gateway's start, s."""

    @classmethod
    def load(cls, files: ModelFiles, executor: Executor, turns: Turns) -> "ServedModel":
        """Blocks: a tokenizer of 262,144 tokens takes about a second to load. `turns` are those of the executor's threads."""
        tokenizer = Tokenizer.from_file(str(files.tokenizer))
        return cls(
            name=files.model,
            prompts=Prompts(tokenizer, files.chat_template, executor, files.max_context_tokens, turns),
            context_tokens=files.max_context_tokens,
            chat_stop=files.chat_stop,
            fingerprint=f"fp_{files.weights_xxh3_128[:12]}",
            created=int(unix_s()),
        )
