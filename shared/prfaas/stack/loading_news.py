"""News of a worker that loads its engine, in words, from the entries of its log; pure."""

from collections.abc import Mapping
from typing import Any


def loading_news(entry: Mapping[str, Any]) -> str:
    """Returns a predicate such as "loads gemma-3-270m"; empty for an entry that is no news of this kind."""
    try:
        return _predicate(entry)
    except (KeyError, TypeError, ValueError):  # a worker of another version has other fields
        return ""


def _predicate(entry: Mapping[str, Any]) -> str:
    match entry.get("event"):
        case "engine_loading":
            return f"loads {entry['model']} ({entry['engine']}, threads: {entry['threads']})"
        case "engine_loaded":
            return (
                f"has loaded {entry['model']} in {entry['took_s']:.1f} s; "
                f"a token has {entry['kv_bytes_per_token']:,} bytes of KV in {entry['dtype']}"
            )
    return ""
