"""Untrusted bytes in, a well-formed request out, or an ApiError that names the field."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_decode import Sampling
from prfaas_gateway.openai.errors import context_exceeded, invalid
from prfaas_gateway.openai.reading import converted, fields_of, missing, plain_fields, take_inert
from prfaas_gateway.openai.types import MAX_CHOICES, ChatMessage, ChatRequest, CompletionRequest, GenerationRequest
from prfaas_gateway.openai.unsupported import (
    OF_CHATS,
    UNSUPPORTED,
    UNSUPPORTED_IN_CHAT,
    UNSUPPORTED_IN_MESSAGE,
    UNSUPPORTED_IN_PART,
    UNSUPPORTED_IN_STREAM_OPTIONS,
    take_unsupported,
)

Request = TypeVar("Request", bound=GenerationRequest)

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


FORMS: Final = frozenset(["response_format", "structured_outputs", "guided_json", "tools", "tool_choice", "chat_template_kwargs"])
"""Fields that hold JSON schemas, or go to the chat template, in which a null says something."""
VERBATIM: Final = FORMS | {"messages"}
SAMPLED: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Fields of a request that go to the sampler as they are, where they are said."""


def parse_completion(body: bytes) -> CompletionRequest:
    """Raises ApiError."""
    fields = _fields(body)
    if isinstance(prompts := fields.get("prompt"), list):
        _check_prompts(prompts)
    fields = take_unsupported(fields, OF_CHATS)
    if fields.get("logprobs") is False:
        del fields["logprobs"]  # a chat request's way to ask for none
    request = _convert(fields, CompletionRequest)
    if request.best_of is not None:
        _check_best_of(request, request.best_of)
    return request


def parse_chat(body: bytes) -> ChatRequest:
    """Raises ApiError."""
    fields = take_unsupported(_fields(body), UNSUPPORTED_IN_CHAT)
    if isinstance(messages := fields.get("messages"), list):
        # One by one: of a million wrong ones only the first is looked at.
        fields["messages"] = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    request = _convert(fields, ChatRequest)
    if request.top_logprobs and not request.logprobs:
        raise invalid("`top_logprobs` needs `logprobs` to be true.", "top_logprobs", FailureCode.INVALID_VALUE)
    return request


def sampling_of(
    request: CompletionRequest | ChatRequest,
    *,
    prompt_tokens: int,
    context_tokens: int,
    default_max_tokens: int,
    defaults: Mapping[str, Any] = {},
    bad_words: tuple[tuple[int, ...], ...] = (),
    extra_stop: tuple[str, ...] = (),
    grammar: str = "",
    shown_tokens: tuple[str, ...] = (),
) -> Sampling:
    """Returns what is said, or the model's `defaults`, or OpenAI's. `bad_words` are the request's in tokens.

    Raises ApiError: the prompt with its answer does not fit into the context, or min_tokens exceeds max_tokens."""
    asked = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    param = "messages" if isinstance(request, ChatRequest) else "prompt"
    if prompt_tokens < 1:
        raise invalid(f"`{param}` gives no tokens at all; there must be one to continue.", param, FailureCode.INVALID_VALUE)
    room_tokens = context_tokens - prompt_tokens
    if room_tokens < 1 or (asked is not None and asked > room_tokens):
        wanted = f"; you asked for {asked} more" if asked is not None and room_tokens >= 1 else ""
        raise context_exceeded(context_tokens, f"{prompt_tokens}{wanted}", param)
    max_tokens = asked if asked is not None else min(defaults.get("max_tokens", default_max_tokens), room_tokens)
    if request.min_tokens > max_tokens:
        message = f"`min_tokens` is {request.min_tokens}, more than the {max_tokens} tokens of `max_tokens`."
        raise invalid(message, "min_tokens", FailureCode.INVALID_VALUE)
    said = {name: value for name in SAMPLED if (value := getattr(request, name)) is not None}
    return Sampling(
        **{**defaults, **said, "max_tokens": max_tokens},
        min_tokens=request.min_tokens,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=tuple((token_id, bias) for token_id, bias in request.logit_bias.items() if bias),
        stop_token_ids=tuple(request.stop_token_ids),
        bad_words=bad_words,
        seed=request.seed,
        # `extra_stop` is the model's end of turn, which is an end token in all but name.
        # A grammar says by itself where the answer ends, and may have that string inside.
        stop=_stop(request.stop) if request.ignore_eos or grammar else (*_stop(request.stop), *extra_stop),
        ignore_eos=request.ignore_eos,
        top_logprobs=_top_logprobs(request),
        grammar=grammar,
        shown_tokens=shown_tokens,
    )


def _top_logprobs(request: CompletionRequest | ChatRequest) -> int | None:
    if isinstance(request, CompletionRequest):
        chooses = request.best_of is not None and request.best_of > request.n
        return 0 if request.logprobs is None and chooses else request.logprobs
    return (request.top_logprobs or 0) if request.logprobs else None


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _fields(body: bytes) -> dict[str, Any]:
    """Returns the body as an object without inert fields and fields that ask for nothing."""
    value = fields_of(body, VERBATIM)
    take_inert(value, INERT)
    for name in FORMS & value.keys():
        if value[name] in ({}, [], ""):  # asks for nothing, as everywhere
            del value[name]
    fields = take_unsupported(value, UNSUPPORTED)
    if isinstance(options := fields.get("stream_options"), dict):
        fields["stream_options"] = take_unsupported(options, UNSUPPORTED_IN_STREAM_OPTIONS, "stream_options")
    return fields


def _message(message: Any, where: str) -> ChatMessage:
    """Raises ApiError. What OpenAI knows and this server does not is refused by name."""
    taken = converted(_served_fields(plain_fields(message), where) if isinstance(message, dict) else message, ChatMessage, where)
    _check_calls(taken, where)
    return taken


def _check_calls(message: ChatMessage, where: str) -> None:
    """Raises ApiError for a message that lacks what its role needs, or has what another role has."""
    absent, strange = None, None
    if message.content is None and not message.tool_calls:
        absent = "content"
    elif message.role == "tool" and message.tool_call_id is None:
        absent = "tool_call_id"
    elif message.role != "tool" and message.tool_call_id:
        strange, its = "tool_call_id", "tool"
    elif message.role != "assistant" and message.tool_calls:
        strange, its = "tool_calls", "assistant"
    if absent is not None:
        raise missing(f"{where}.{absent}")
    if strange is not None:
        path = f"{where}.{strange}"
        raise invalid(f"`{path}` is a field of messages of role `{its}`.", path, FailureCode.INVALID_VALUE)


def _served_fields(message: dict[str, Any], where: str) -> dict[str, Any]:
    if message.get("role") == "function":
        told = "Messages of role `function` are not supported by this server; `tool` has taken its place."
        raise invalid(told, f"{where}.role", FailureCode.UNSUPPORTED_VALUE)
    fields = take_unsupported(message, UNSUPPORTED_IN_MESSAGE, where)
    if isinstance(parts := fields.get("content"), list):
        fields["content"] = [_part(part, f"{where}.content[{index}]") for index, part in enumerate(parts)]
    return fields


def _part(part: Any, where: str) -> Any:
    if not isinstance(part, dict):
        return part
    kind = part.get("type", "text")
    if isinstance(kind, str) and kind != "text":
        message = f"Content of type `{kind}` is not supported by this server; only `text` is."
        raise invalid(message, f"{where}.type", FailureCode.UNSUPPORTED_VALUE)
    return take_unsupported(part, UNSUPPORTED_IN_PART, where)


def _check_prompts(prompts: list[Any]) -> None:
    """Raises ApiError for a list of prompts that is too long, and where entries differ. A flat list of numbers is one prompt."""
    if not prompts or not isinstance(prompts[0], str | list):
        converted(prompts, list[int], "prompt")
        return
    if len(prompts) > MAX_CHOICES:
        message = f"`prompt` holds {len(prompts)} prompts; a request has at most {MAX_CHOICES}."
        raise invalid(message, "prompt", FailureCode.INVALID_VALUE)
    for index, prompt in enumerate(prompts):
        if type(prompt) is not type(prompts[0]):
            message = f"`prompt[{index}]` is no {'string' if isinstance(prompts[0], str) else 'array'}, as those before it are."
            raise invalid(message, f"prompt[{index}]", FailureCode.INVALID_VALUE)


def _check_best_of(request: CompletionRequest, best_of: int) -> None:
    if best_of < request.n:
        message = f"`best_of` is {best_of}, less than the {request.n} answers of `n` that are to be chosen from them."
        raise invalid(message, "best_of", FailureCode.INVALID_VALUE)
    if request.stream and best_of > request.n:
        message = "`best_of` chooses among whole answers, so they cannot be streamed; leave out `stream`, or `best_of`."
        raise invalid(message, "best_of", FailureCode.INVALID_VALUE)


def _convert(fields: dict[str, Any], kind: type[Request]) -> Request:
    request = converted(fields, kind, str_keys=True)
    both = (request.max_tokens, request.max_completion_tokens)
    if None not in both and both[0] != both[1]:
        raise invalid("`max_tokens` and `max_completion_tokens` differ; send one.", "max_tokens", FailureCode.INVALID_VALUE)
    return request
