"""The pages of the project, and what they name: for the tests that hold them against the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.source_tree import ROOT, parsed

STRUCTURE = ROOT / "docs/structure.md"
PLACE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.py):([A-Za-z_][\w.]*)`")


def pages() -> list[Path]:
    """All Markdown pages that describe the code."""
    return [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def section(page: Path, title: str) -> str:
    """Text below the heading `title`, up to the next one of the same or a higher level. ValueError without it."""
    lines = page.read_text().splitlines()
    first = next((index for index, line in enumerate(lines) if re.fullmatch(rf"#+ {re.escape(title)}", line)), None)
    if first is None:
        raise ValueError(f"{page.name} has no section {title!r}")
    level = len(lines[first].split(" ")[0])
    rest = lines[first + 1 :]
    end = next((index for index, line in enumerate(rest) if re.match(rf"#{{1,{level}}} ", line)), len(rest))
    return "\n".join(rest[:end])


def titles(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)


def slug(title: str) -> str:
    """Anchor of a heading, as renderers of Markdown make it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def rows(text: str) -> list[list[str]]:
    """Cells of all table rows in `text`, without headers and rules."""
    found: list[list[str]] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if set("".join(cells)) <= {"-", ":"}:
            found.pop()
        else:
            found.append(cells)
    return found


class Place(NamedTuple):
    page: Path
    file: str
    name: str


def places() -> Iterator[Place]:
    """Every `file.py:name` that a page gives."""
    for page in pages():
        for file, name in PLACE.findall(page.read_text()):
            yield Place(page, file, name)


def files_named(short: str) -> list[Path]:
    """Files of the tree whose path ends in `short`, which may leave out leading folders."""
    whole = ROOT / short
    if whole.is_file():
        return [whole]
    return [
        path
        for root in ("services", "shared", "infra", "load", "tests", "examples")
        for path in (ROOT / root).rglob(f"*/{short}")
    ]


def names_in(path: Path) -> set[str]:
    """Dotted names that a file defines: functions, classes, constants; methods, attributes, constructor arguments of classes."""
    return set(_names(parsed(path.read_text()).body, ""))


def _names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        match node:
            case ast.FunctionDef(name="__init__", args=arguments):
                yield from (prefix + each.arg for each in [*arguments.args, *arguments.kwonlyargs])
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.ClassDef(name=name, body=inner):
                yield prefix + name
                yield from _names(inner, f"{prefix}{name}.")
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name
            case ast.Assign(targets=targets):
                for target in targets:
                    yield from (prefix + each.id for each in ast.walk(target) if isinstance(each, ast.Name))
            case _:
                pass
