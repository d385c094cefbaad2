"""Fields of the Responses API that are not served, with values that ask for nothing, and those without effect."""

from typing import Any, Final

from prfaas_gateway.openai.unsupported import NEVER

UNSUPPORTED: Final[dict[str, Any]] = {
    "store": False,
    "background": False,
    "background_options": {},
    "previous_response_id": NEVER,
    "conversation": NEVER,
    "prompt": NEVER,
    "include": [],
    "reasoning": {"effort": "none"},
    "truncation": "disabled",
    "top_logprobs": 0,
    "max_tool_calls": NEVER,
    "context_management": [],
    "moderation": NEVER,
    "image": {},
    "access_programs": {},
}
"""Fields of a request."""
UNSUPPORTED_IN_TEXT: Final[dict[str, Any]] = {"verbosity": "medium"}
UNSUPPORTED_IN_STREAM_OPTIONS: Final[dict[str, Any]] = {"include_obfuscation": False}
UNSUPPORTED_IN_TOOL: Final[dict[str, Any]] = {
    "allowed_callers": ["direct"],
    "defer_loading": False,
    "async": False,
    "output_schema": NEVER,
}
UNSUPPORTED_IN_ITEM: Final[dict[str, Any]] = {"caller": {"type": "direct"}, "namespace": NEVER, "async": False}
UNSUPPORTED_IN_PART: Final[dict[str, Any]] = {"annotations": [], "logprobs": []}

INERT: Final[dict[str, Any]] = {
    "user": str,
    "safety_identifier": str,
    "prompt_cache_key": str,
    "prompt_cache_retention": str,
    "prompt_cache_options": dict,
    "service_tier": str,
}
"""Fields that change nothing about an answer, with their types."""
INERT_IN_ITEM: Final[dict[str, Any]] = {"id": str, "status": str, "phase": str}
INERT_IN_PART: Final[dict[str, Any]] = {"prompt_cache_breakpoint": dict}
