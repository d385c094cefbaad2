"""JSON values without null members, and with whole floats as integers."""

from typing import Any, Final

_EXACT: Final = 2.0**63
"""Larger floats stay as they are: no integer field takes them."""


def plain(value: Any) -> Any:
    """Returns the value without null members of objects, and with `16.0` and `1e2` as integers.

    A null in an array stays: it takes a place there. Raises RecursionError for what is nested too deeply."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        # Token ids come by the hundred thousand.
        return value if _all_integers(value) else [plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and -_EXACT <= value < _EXACT:
        return int(value)
    return value


def _all_integers(values: list[Any]) -> bool:
    return set(map(type, values)) <= {int}
