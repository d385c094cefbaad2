"""Fields that Anthropic's clients know: those that are not served, with values that ask for nothing, and those without effect."""

from typing import Any, Final

from prfaas_gateway.openai.unsupported import NEVER

UNSUPPORTED: Final[dict[str, Any]] = {
    "thinking": {"type": "disabled"},
    "output_config": {},
    "output_format": {},
    "container": NEVER,
    "context_management": {},
    "mcp_servers": [],
    "inference_geo": NEVER,
    "speed": "standard",
}
"""Fields of a request."""
UNSUPPORTED_IN_TEXT: Final[dict[str, Any]] = {"citations": []}
UNSUPPORTED_IN_CALL: Final[dict[str, Any]] = {"caller": {"type": "direct"}}
UNSUPPORTED_IN_TOOL: Final[dict[str, Any]] = {
    "allowed_callers": ["direct"],
    "defer_loading": False,
    "input_examples": [],
}

INERT: Final[dict[str, Any]] = {"metadata": dict[str, str], "service_tier": str, "cache_control": dict}
"""Fields that change nothing about an answer, with their types: prefixes are cached without being told."""
INERT_IN_BLOCK: Final[dict[str, Any]] = {"cache_control": dict}
INERT_IN_TOOL: Final[dict[str, Any]] = {"cache_control": dict, "eager_input_streaming": bool}
