"""Untrusted bytes in, a well-formed request out, or an ApiError that names the field."""

import re
from typing import Any, Final, TypeVar

import msgspec

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_decode import Sampling
from prfaas_gateway.openai.errors import ApiError, invalid
from prfaas_gateway.openai.types import ChatRequest, CompletionRequest, GenerationRequest

Request = TypeVar("Request", bound=GenerationRequest)

_NEVER: Final = object()

UNSUPPORTED: Final[dict[str, Any]] = {
    # OpenAI's or vLLM's, and not ours. The value is the one that asks for nothing, which is accepted.
    "n": 1,
    "best_of": 1,
    "echo": False,
    "suffix": "",
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "tools": [],
    "tool_choice": "none",
    "parallel_tool_calls": False,
    "functions": [],
    "function_call": "none",
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "audio": _NEVER,
    "prediction": _NEVER,
    "moderation": _NEVER,
    "reasoning_effort": "none",
    "verbosity": "medium",
    "web_search_options": _NEVER,
    "top_k": -1,
    "min_p": 0,
    "repetition_penalty": 1,
    "use_beam_search": False,
    "stop_token_ids": [],
    "prompt_logprobs": _NEVER,
    "skip_special_tokens": True,
    "add_special_tokens": True,
}

INERT: Final[dict[str, Any]] = {
    # These change nothing about an answer, at OpenAI neither: accepted once their type is right.
    "user": str,
    "metadata": dict[str, str],
    "store": bool,
    "safety_identifier": str,
    "prompt_cache_key": str,
    "prompt_cache_retention": str,
    "prompt_cache_options": dict,
    "service_tier": str,
}


def parse_completion(body: bytes) -> CompletionRequest:
    fields = _fields(body)
    if isinstance(fields.get("prompt"), list):
        fields["prompt"] = _one_prompt(fields["prompt"])
    return _convert(fields, CompletionRequest)


def parse_chat(body: bytes) -> ChatRequest:
    fields = _fields(body)
    for index, message in _items(fields.get("messages")):
        _check_message(message, f"messages[{index}]")
    request = _convert(fields, ChatRequest)
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("`top_logprobs` needs `logprobs` to be true.", "top_logprobs")
    return request


def sampling_of(
    request: CompletionRequest | ChatRequest,
    *,
    prompt_tokens: int,
    context_tokens: int,
    default_max_tokens: int,
    extra_stop: tuple[str, ...] = (),
) -> Sampling:
    """Raises ApiError: the prompt with its answer does not fit into the context, or min_tokens exceeds max_tokens."""
    asked = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    param = "messages" if isinstance(request, ChatRequest) else "prompt"
    if prompt_tokens < 1:
        raise invalid(f"`{param}` gives no tokens at all; there must be one to continue.", param, FailureCode.INVALID_VALUE)
    room_tokens = context_tokens - prompt_tokens
    if room_tokens < 1 or (asked is not None and asked > room_tokens):
        wanted = f"; you asked for {asked} more" if asked is not None and room_tokens >= 1 else ""
        message = f"This model's context is {context_tokens} tokens and the prompt has {prompt_tokens}{wanted}."
        raise invalid(message, param, FailureCode.CONTEXT_LENGTH_EXCEEDED)
    max_tokens = asked if asked is not None else min(default_max_tokens, room_tokens)
    if request.min_tokens > max_tokens:
        raise invalid(f"`min_tokens` is {request.min_tokens}, more than the {max_tokens} tokens of `max_tokens`.", "min_tokens")
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        # `extra_stop` is the model's end of turn, which is an end token in all but name.
        stop=_stop(request.stop) if request.ignore_eos else (*_stop(request.stop), *extra_stop),
        ignore_eos=request.ignore_eos,
        top_logprobs=_top_logprobs(request),
    )


def _top_logprobs(request: CompletionRequest | ChatRequest) -> int | None:
    if isinstance(request, CompletionRequest):
        return request.logprobs
    return (request.top_logprobs or 0) if request.logprobs else None


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _fields(body: bytes) -> dict[str, Any]:
    """The body as an object without its nulls, its inert fields and what is unsupported but asks for nothing."""
    try:
        value = msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise invalid(f"The body is not valid UTF-8: byte 0x{error.object[error.start]:02x} starts no character.") from error
    except RecursionError as error:
        raise invalid("The body is nested too deeply.") from error
    except msgspec.DecodeError as error:
        raise invalid(f"The body is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise invalid(f"The body must be a JSON object, not {_json_name(value)}.")
    fields = {}
    for name, item in value.items():
        if item is None:
            continue
        if name in INERT:
            _check_inert(name, item)
        elif name in UNSUPPORTED:
            _check_unsupported(name, item)
        else:
            fields[name] = item
    return fields


def _check_inert(name: str, value: Any) -> None:
    try:
        msgspec.convert(value, INERT[name])
    except msgspec.ValidationError as error:
        raise _named(error, prefix=name) from error


def _check_unsupported(name: str, value: Any) -> None:
    neutral = UNSUPPORTED[name]
    # JSON's true is not its 1, though Python's is.
    if value == neutral and isinstance(value, bool) == isinstance(neutral, bool):
        return
    hint = "" if neutral is _NEVER else f"; leave it out or send {msgspec.json.encode(neutral).decode()}"
    raise invalid(f"`{name}` is not supported by this server{hint}.", name, FailureCode.UNSUPPORTED_PARAMETER)


def _check_message(message: Any, where: str) -> None:
    """Refuses by name what OpenAI knows and we do not; wrong types are left to the conversion."""
    if not isinstance(message, dict):
        return
    if message.get("role") in ("tool", "function"):
        raise invalid(
            f"Messages of role `{message['role']}` are not supported by this server.",
            f"{where}.role",
            FailureCode.UNSUPPORTED_VALUE,
        )
    for name in ("tool_calls", "function_call", "audio", "refusal", "tool_call_id"):
        if message.get(name) is not None:
            raise invalid(
                f"`{name}` in a message is not supported by this server.", f"{where}.{name}", FailureCode.UNSUPPORTED_PARAMETER
            )
        message.pop(name, None)
    for index, part in _items(message.get("content")):
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if isinstance(kind, str) and kind != "text":
            param = f"{where}.content[{index}].type"
            raise invalid(
                f"Content of type `{kind}` is not supported by this server; only `text` is.", param, FailureCode.UNSUPPORTED_VALUE
            )


def _one_prompt(prompts: list[Any]) -> Any:
    """OpenAI's batch of prompts, of which this server takes one; a flat list of numbers already is one."""
    if not prompts or not isinstance(prompts[0], str | list):
        return prompts
    if len(prompts) > 1:
        raise invalid(
            f"`prompt` holds {len(prompts)} prompts; this server takes one a request.", "prompt", FailureCode.UNSUPPORTED_VALUE
        )
    return prompts[0]


def _convert(fields: dict[str, Any], kind: type[Request]) -> Request:
    try:
        request = msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _named(error) from error
    if request.stream_options is not None:
        if not request.stream:
            raise invalid("`stream_options` is only allowed when `stream` is true.", "stream_options")
        if request.stream_options.include_obfuscation:
            param = "stream_options.include_obfuscation"
            raise invalid(f"`{param}` is not supported by this server.", param, FailureCode.UNSUPPORTED_PARAMETER)
    both = (request.max_tokens, request.max_completion_tokens)
    if None not in both and both[0] != both[1]:
        raise invalid("`max_tokens` and `max_completion_tokens` differ; send one.", "max_tokens")
    return request


_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)


def _named(error: msgspec.ValidationError, prefix: str = "") -> ApiError:
    """msgspec says where in prose; OpenAI's clients read `param`."""
    match = _AT.match(str(error))
    assert match is not None
    what, path = match["what"], match["path"] or ""
    path = f"{prefix}.{path}".rstrip(".").replace(".[", "[") if prefix else path
    if unknown := _UNKNOWN.match(what):
        param = f"{path}.{unknown['name']}" if path else unknown["name"]
        return invalid(f"Unknown parameter: `{param}`.", param, FailureCode.UNKNOWN_PARAMETER)
    if missing := _MISSING.match(what):
        param = f"{path}.{missing['name']}" if path else missing["name"]
        return invalid(f"Missing required parameter: `{param}`.", param, FailureCode.MISSING_REQUIRED_PARAMETER)
    return invalid(f"Invalid value for `{path}`: {what[0].lower()}{what[1:]}.", path or None, FailureCode.INVALID_VALUE)


def _items(value: Any) -> list[tuple[int, Any]]:
    return list(enumerate(value)) if isinstance(value, list) else []


def _json_name(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "null")
