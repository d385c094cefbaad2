"""Untrusted bytes in, a well-formed request out, or an ApiError that names the field."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_decode import Sampling
from prfaas_gateway.openai.errors import context_exceeded, invalid
from prfaas_gateway.openai.fields import checked, converted, fields_of
from prfaas_gateway.openai.messages import messages_of
from prfaas_gateway.openai.types import MAX_CHOICES, ChatRequest, CompletionRequest, GenerationRequest
from prfaas_gateway.openai.unknown_fields import UnknownFields
from prfaas_gateway.openai.unsupported import (
    OF_CHATS,
    UNSUPPORTED,
    UNSUPPORTED_IN_CHAT,
    UNSUPPORTED_IN_STREAM_OPTIONS,
    take_unsupported,
)

Request = TypeVar("Request", bound=GenerationRequest)

SAMPLED: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Fields of a request that go to the sampler as they are, where they are said."""


def parse_completion(body: bytes, unknown: UnknownFields | None = None) -> CompletionRequest:
    """Puts fields that no API has into `unknown`; None: refuses them. Raises ApiError."""
    fields = _served_fields(body)
    if isinstance(prompts := fields.get("prompt"), list):
        _check_prompts(prompts)
    fields = take_unsupported(fields, OF_CHATS)
    if fields.get("logprobs") is False:
        del fields["logprobs"]  # a chat request's way to ask for none
    request = _converted(fields, CompletionRequest, unknown)
    if request.best_of is not None:
        _check_best_of(request, request.best_of)
    return request


def parse_chat(body: bytes, unknown: UnknownFields | None = None) -> ChatRequest:
    """Puts fields that no API has into `unknown`; None: refuses them. Raises ApiError."""
    fields = take_unsupported(_served_fields(body), UNSUPPORTED_IN_CHAT)
    request = _converted(messages_of(fields, unknown), ChatRequest, unknown)
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


def _served_fields(body: bytes) -> dict[str, Any]:
    """Returns the body's fields without those that ask for nothing."""
    fields = take_unsupported(fields_of(body), UNSUPPORTED)
    if isinstance(options := fields.get("stream_options"), dict):
        fields["stream_options"] = take_unsupported(options, UNSUPPORTED_IN_STREAM_OPTIONS, "stream_options")
    return fields


def _check_prompts(prompts: list[Any]) -> None:
    """Raises ApiError for a list of prompts that is too long, and where entries differ. A flat list of numbers is one prompt."""
    if not prompts or not isinstance(prompts[0], str | list):
        checked(prompts, list[int], "prompt")
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


def _converted(fields: dict[str, Any], kind: type[Request], unknown: UnknownFields | None) -> Request:
    request = converted(fields, kind, unknown)
    both = (request.max_tokens, request.max_completion_tokens)
    if None not in both and both[0] != both[1]:
        raise invalid("`max_tokens` and `max_completion_tokens` differ; send one.", "max_tokens", FailureCode.INVALID_VALUE)
    return request
