"""docs/models.md says of every class what the code says, and names what proves it."""

import re

from prfaas.engine.served_classes import REFUSED, SERVED
from tests.source_tree import ROOT

ROW = re.compile(r"\| (\w+) \| (yes|no) \| (.+) \|")
PAGE = (ROOT / "docs" / "models.md").read_text()
TINY_MODELS = (ROOT / "tests" / "engine" / "tiny_models.py").read_text()


def test_the_table_has_all_classes_with_the_codes_reasons() -> None:
    rows = {name: (served, reason) for name, served, reason in ROW.findall(PAGE)}
    assert list(rows) == sorted({*SERVED, *REFUSED})
    assert {name for name, (served, _) in rows.items() if served == "yes"} == set(SERVED)
    assert {name: reason for name, (served, reason) in rows.items() if served == "no"} == REFUSED


def test_each_served_class_names_its_windows_and_the_tiny_models_that_prove_it() -> None:
    for name, served, reason in ROW.findall(PAGE):
        if served == "yes":
            tiny, _, windows = reason.partition("; windows ")
            assert windows == SERVED[name]
            named = re.findall(r"`([\w-]+)`", tiny)
            assert named and all(f'"{each}": (' in TINY_MODELS for each in named), name
