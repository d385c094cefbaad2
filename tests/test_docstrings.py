"""Docstrings of the whole tree begin with a noun or a verb, and have none of the words that make a sentence a riddle."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source_tree import ROOT, parsed

FOLDERS = ("services", "shared", "infra", "load", "tests", "examples")

# A fragment such as "Of its workers." takes its subject from the identifier: it must be read twice.
FRAGMENT = re.compile(
    r"(?:Of|By|That|Whose|Which|So (?:many|much|long)|Until|Behind|Beyond|Beside|In|Into|From|With|Without|Within|Where|While|For"
    r"|What|How|Whether|Why|When|Who"
    r"|To|Towards|At|As|On|Over|Under|Above|Below|Between|Among|Against|Through|Per|Since|Out of|After|Before|And|But)\b"
)
RIDDLE = re.compile(r"\b(?:nobody|whoever|so many|that one which)\b", re.IGNORECASE)


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring of modules, classes, functions and attributes: strings that stand alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def complaint(text: str) -> str:
    """Reason why a docstring is refused, or an empty string."""
    if found := FRAGMENT.match(text.strip()):
        return f"begins with {found[0]!r}"
    if found := RIDDLE.search(text):
        return f"says {found[0]!r}"
    return ""


def complaints(path: Path) -> list[str]:
    found = [(line, complaint(text)) for line, text in docstrings(parsed(path.read_text()))]
    return [f"{path.relative_to(ROOT)}:{line} {reason}" for line, reason in found if reason]


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_begin_with_a_noun_or_a_verb(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert [line for path in files for line in complaints(path)] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Of its workers.", "begins with 'Of'"),
        ("\n    Until a prompt is there.", "begins with 'Until'"),
        ("So many workers at once.", "begins with 'So many'"),
        ("Announcements that nobody hears.", "says 'nobody'"),
        ("Whoever asks first.", "says 'Whoever'"),
        ("What a worker tells.", "begins with 'What'"),
        ("Whether it is there.", "begins with 'Whether'"),
        ("How long it may take.", "begins with 'How'"),
        ("Whenever", ""),
        ("Office hours.", ""),
        ("Bytes in flight.", ""),
        ("Sends one frame.", ""),
    ],
)
def test_a_fragment_is_told_from_a_sentence(text: str, reason: str) -> None:
    assert complaint(text) == reason


def test_attributes_of_classes_and_modules_are_read_too() -> None:
    source = '"""Module."""\nA = 1\n"""Of a module."""\nclass C:\n    """Class."""\n    b: int\n    """Of a class."""\n'
    assert [line for line, text in docstrings(parsed(source)) if complaint(text)] == [3, 7]
