"""A model's directory in Hugging Face's format, read without torch and transformers: what serving must know of it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import xxhash

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_GENERATION_CONFIG = "generation_config.json"
_CHAT_TEMPLATE = "chat_template.jinja"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Names that chat templates may use, as transformers defines them."""


class WeightsError(Exception):
    """Failure to get a model: it is unknown, its package is missing, or its files are not what they should be."""


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Files of a prepared model, and what serving must know of it."""

    model: str
    """Name by which the services of all sites know it."""
    directory: Path
    """Argument for transformers' `from_pretrained`."""
    tokenizer: Path
    """File of `load_tokenizer`. Encoding adds the BOS token where the model wants one."""
    config_xxh3_128: str
    """Hash of the configuration's values, whatever their order in the file."""
    vocabulary_tokens: int
    max_context_tokens: int
    eos_token_ids: frozenset[int]
    chat_template: str | None
    """Jinja2 template over `messages`, `add_generation_prompt` and the special tokens. None: the model has no chats."""
    generation_config: dict[str, Any] = {}
    """Contents of generation_config.json; empty where there is none."""
    special_tokens: dict[str, str] = {}
    """Texts of `bos_token`, `eos_token` and the like for the template."""
    chat_stop: tuple[str, ...] = ()
    """Strings that end a chat reply, beside the client's own stop strings. A base model does not end its turn otherwise."""
    converted_xxh3_128: str = ""
    """Hash of the weights that a conversion has written here. Empty: whatever lies here is the model."""


def read_directory(
    directory: Path,
    model: str,
    *,
    chat_template: str | None = None,
    chat_stop: tuple[str, ...] = (),
    converted_xxh3_128: str = "",
) -> ModelFiles:
    """Reads all files but the weights. `chat_template` takes the place of the directory's own. Raises WeightsError."""
    config = config_of(directory)
    tokenizer = directory / TOKENIZER
    if not tokenizer.is_file():
        raise WeightsError(
            f"the model in {directory} has no {TOKENIZER}: expected is the file that transformers' fast tokenizers save"
        )
    of_tokenizer = _json(directory / _TOKENIZER_CONFIG, absent={})
    of_generation = _json(directory / _GENERATION_CONFIG, absent={})
    return ModelFiles(
        model=model,
        directory=directory,
        tokenizer=tokenizer,
        config_xxh3_128=xxhash.xxh3_128_hexdigest(msgspec.json.encode(config, order="sorted")),
        vocabulary_tokens=_number(directory, config, "vocab_size"),
        # Kimi's configuration has a name of its own for it.
        max_context_tokens=_number(
            directory, config, "model_max_length" if config.get("model_type") == "kimi_linear" else "max_position_embeddings"
        ),
        eos_token_ids=_eos_token_ids(directory, config, of_generation),
        generation_config=of_generation,
        chat_template=chat_template or _chat_template(directory, of_tokenizer),
        special_tokens=_special_tokens(of_tokenizer),
        chat_stop=chat_stop,
        converted_xxh3_128=converted_xxh3_128,
    )


def config_of(directory: Path) -> dict[str, Any]:
    """Returns the configuration as it is in the file. Raises WeightsError."""
    if not directory.is_dir():
        raise WeightsError(f"{directory} is no directory; expected is one with a model in Hugging Face's format")
    return _json(directory / CONFIG)


def _json(path: Path, absent: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        # Not msgspec: some repositories have `Infinity` in config.json, which is no JSON, and which Python's own reader takes.
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        if absent is not None:
            return absent
        raise WeightsError(f"{path.parent} has no {path.name}; expected is a model in Hugging Face's format") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is no JSON object: {error}") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path} is no JSON object, but {found!r:.40}")
    return found


def _number(directory: Path, config: dict[str, Any], name: str) -> int:
    # A model of images and text has its text's settings one level below; the engine refuses it, with its reason.
    found = config.get(name, _text_config(config).get(name))
    if not isinstance(found, int) or found < 2:
        raise WeightsError(f"{directory / CONFIG} has `{name}` {found!r}; expected is a number of tokens")
    return found


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else {}


def _eos_token_ids(directory: Path, config: dict[str, Any], of_generation: dict[str, Any]) -> frozenset[int]:
    """Returns the end tokens that transformers' `generate` stops at: the generation's own, else the configuration's."""
    found = of_generation.get("eos_token_id")
    if found is None:
        found = config.get("eos_token_id", [])
    ids = found if isinstance(found, list) else [found]
    if not all(isinstance(token_id, int) and token_id >= 0 for token_id in ids):
        raise WeightsError(f"the model in {directory} has `eos_token_id` {found!r}; expected is a token id, or a list of them")
    return frozenset(ids)


def _chat_template(directory: Path, of_tokenizer: dict[str, Any]) -> str | None:
    """Returns the template in a file of its own, else the one among the tokenizer's settings, of several the default one."""
    path = directory / _CHAT_TEMPLATE
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        found = of_tokenizer.get("chat_template")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise WeightsError(f"{directory / _TOKENIZER_CONFIG} has a `chat_template` that is no text, but {found!r:.40}")
    return found


def _special_tokens(of_tokenizer: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name in _SPECIAL_TOKENS:
        token = of_tokenizer.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            found[name] = text
    return found
