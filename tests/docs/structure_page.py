"""Rows that docs/structure.md lacks, and rows whose file is gone.

`python -m tests.docs.structure_page` prints them; with `--write` it takes gone rows out and puts drafts in, made from the
docstrings of the modules, to be read and shortened by hand.
"""

import argparse
import ast
import re
import sys

from tests.docs.pages import STRUCTURE, section
from tests.source_tree import ROOT, parsed, source_files

HEADING = re.compile(r"### `([\w/]+/)`")
ROW = re.compile(r"\| `([\w./-]+)` \|")
ROW_CHARACTERS = 120


def files_to_name() -> set[str]:
    """Source files that the page has a row for: all but package markers and the services' console scripts."""
    examples = [path.relative_to(ROOT) for path in (ROOT / "examples").rglob("*.py")]
    scripts = {path for path in source_files() if path.parts[0] == "services" and path.name == "__main__.py"}
    return {str(path) for path in [*source_files(), *examples] if path.name != "__init__.py" and path not in scripts}


def named_files() -> list[str]:
    """Paths that the page's rows name, in their order."""
    found, folder = [], ""
    for line in section(STRUCTURE, "Every file").splitlines():
        if heading := HEADING.fullmatch(line):
            folder = heading[1]
        elif (row := ROW.match(line)) and folder:
            found.append(folder + row[1])
    return found


def missing_rows() -> dict[str, str]:
    """File without a row -> draft of what to say, from the module's docstring."""
    return {path: _draft(path) for path in sorted(files_to_name() - set(named_files()))}


def gone_files() -> list[str]:
    return [name for name in named_files() if not (ROOT / name).is_file()]


def _draft(path: str) -> str:
    """The docstring's first sentence as far as a row has room, cut where a part of it ends."""
    text = ast.get_docstring(parsed((ROOT / path).read_text())) or ""
    sentence = " ".join(text.partition("\n\n")[0].split()).split(". ")[0].rstrip(".")
    room = ROW_CHARACTERS - len(path) - 10
    while len(sentence) > room:
        ends = [sentence.rfind(sign, 0, room) for sign in (": ", ", ", "; ", " ")]
        sentence = sentence[: next((end for end in ends if end > 0), room)]
    return sentence


def _room(path: str) -> str:
    """Folder that has a heading of its own."""
    parts = path.split("/")
    return "/".join(parts[: {"services": 2, "shared": 3}.get(parts[0], 1)]) + "/"


def rewritten(page: str, missing: dict[str, str], gone: list[str]) -> str:
    """The page without the gone rows, and with a draft row for each missing file: in its folder, in order of names.

    A folder without a heading gets one, after all others."""
    lines: list[str] = []
    folder = ""
    left = dict(missing)
    for line in [*page.splitlines(), ""]:
        if heading := HEADING.fullmatch(line):
            folder = heading[1]
        row = ROW.match(line) if folder else None
        if row and folder + row[1] in gone:
            continue
        if folder and (row or (not line and lines[-1].startswith("|"))):
            # A row comes before the first one that is greater; the rest of a folder's come at the end of its table.
            for path in [path for path in left if path.startswith(folder) and (not row or path < folder + row[1])]:
                lines.append(f"| `{path.removeprefix(folder)}` | {left.pop(path)} |")
        lines.append(line)
    end = next((index for index, line in enumerate(lines) if line.startswith("Beside this page")), len(lines))
    for room in sorted({_room(path) for path in left}):
        drafts = [f"| `{path.removeprefix(room)}` | {draft} |" for path, draft in left.items() if _room(path) == room]
        lines[end:end] = [f"### `{room}`", "", "| file | what |", "|---|---|", *drafts, ""]
        end += len(drafts) + 5
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.docs.structure_page", description=__doc__)
    parser.add_argument("--write", action="store_true", help="change the page")
    arguments = parser.parse_args()
    missing, gone = missing_rows(), gone_files()
    for path, draft in missing.items():
        print(f"missing: {path} | {draft}")
    for path in gone:
        print(f"gone: {path}")
    if arguments.write:
        STRUCTURE.write_text(rewritten(STRUCTURE.read_text(), missing, gone))
        return 0
    return 1 if missing or gone else 0


if __name__ == "__main__":
    sys.exit(main())
