"""Fields that OpenAI's or vLLM's clients know and this server does not serve, and the values of them that ask for nothing."""

from typing import Any, Final

from msgspec.json import encode

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import invalid

NEVER: Final = object()
"""The neutral value of a field that has none; null and empty ones still ask for nothing."""

UNSUPPORTED: Final[dict[str, Any]] = {
    "echo": False,
    "suffix": "",
    "functions": [],
    "function_call": "none",
    "modalities": ["text"],
    "audio": NEVER,
    "prediction": NEVER,
    "moderation": NEVER,
    "reasoning_effort": "none",
    "verbosity": "medium",
    "web_search_options": NEVER,
    "use_beam_search": False,
    "prompt_logprobs": NEVER,
    "length_penalty": 1,
    "skip_special_tokens": True,
    "add_special_tokens": True,
    "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False,
    "allowed_token_ids": [],
    "truncate_prompt_tokens": NEVER,
    "guided_decoding_backend": NEVER,
    "guided_whitespace_pattern": NEVER,
    "chat_template": NEVER,
    "documents": [],
    "return_token_ids": False,
    "return_tokens_as_token_ids": False,
    "priority": 0,
}
"""Fields of a request, each with a value that asks for nothing."""

OF_CHATS: Final[dict[str, Any]] = {
    "tools": [],
    "tool_choice": "none",
    "parallel_tool_calls": False,
    "add_generation_prompt": True,
    "continue_final_message": False,
    "chat_template_kwargs": {},
}
"""Fields that chats have, and plain completions do not."""
UNSUPPORTED_IN_CHAT: Final[dict[str, Any]] = {"best_of": 1}
"""Fields of completions that chats do not have, at OpenAI neither."""

ALSO_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    # Without tools there is nothing to choose and nothing to call side by side.
    "tool_choice": ("auto",),
    "function_call": ("auto",),
    "parallel_tool_calls": (True,),
    # There is no reasoning to encrypt.
    "include": (["reasoning.encrypted_content"],),
}

UNSUPPORTED_IN_MESSAGE: Final[dict[str, Any]] = {
    "function_call": NEVER,
    "audio": NEVER,
    "refusal": "",
    "annotations": [],
    "reasoning_content": "",
    "reasoning": "",
}

UNSUPPORTED_IN_PART: Final[dict[str, Any]] = {"cache_control": {}, "annotations": []}

UNSUPPORTED_IN_STREAM_OPTIONS: Final[dict[str, Any]] = {"include_obfuscation": False}


def take_unsupported(fields: dict[str, Any], unsupported: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Returns the other fields. Raises ApiError for an unsupported one that asks for something; `where` is the object's path."""
    others: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in unsupported:
            others[name] = value
        elif not asks_for_nothing(name, value, unsupported[name]):
            path = f"{where}.{name}" if where else name
            hint = "" if unsupported[name] is NEVER else f"; leave it out or send {encode(unsupported[name]).decode()}"
            raise invalid(f"`{path}` is not supported by this server{hint}.", path, FailureCode.UNSUPPORTED_PARAMETER)
    return others


def asks_for_nothing(name: str, value: Any, neutral: Any) -> bool:
    """Tells whether a plain value (see `plain`) is neutral or empty."""
    if value in ("", [], {}):
        return True
    # JSON's true is not its 1, though Python's is.
    return any(
        value == each and isinstance(value, bool) == isinstance(each, bool) for each in (neutral, *ALSO_NEUTRAL.get(name, ()))
    )
