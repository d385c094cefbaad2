"""The table of all clocks says what the code has."""

import importlib
import inspect
import re
from typing import Any

import msgspec
import pytest

from tests.docs.pages import rows, section
from tests.source_tree import ROOT, module_name

PAGE = ROOT / "docs/when-things-fail.md"
CLOCKS = rows(section(PAGE, "All clocks"))


def value_of(path: str, name: str) -> Any:
    """A constant of the module, or the default of a field or parameter of one of its classes."""
    module = importlib.import_module(module_name((ROOT / path).relative_to(ROOT)))
    owner, _, field = name.rpartition(".")
    if not owner:
        return getattr(module, name)
    cls = getattr(module, owner)
    if issubclass(cls, msgspec.Struct):
        return {each.name: each.default for each in msgspec.structs.fields(cls)}[field]
    return inspect.signature(cls).parameters[field].default


@pytest.mark.parametrize(("clock", "value", "where"), [row[:3] for row in CLOCKS], ids=[row[0] for row in CLOCKS])
def test_a_clock_has_the_value_that_the_page_gives(clock: str, value: str, where: str) -> None:
    place = re.fullmatch(r"`([\w/]+\.py):([\w.]+)`", where)
    seconds = re.fullmatch(r"([\d.]+) s", value)
    assert place and seconds, f"{clock}: a value in seconds and a place in the code are expected"
    assert value_of(place[1], place[2]) == pytest.approx(float(seconds[1]))


def test_the_page_has_the_clocks_that_decide_whether_something_is_dead() -> None:
    assert len(CLOCKS) > 30
    assert all(len(row) == 4 and all(row) for row in CLOCKS), "each clock has a name, a value, a place and a reason"
