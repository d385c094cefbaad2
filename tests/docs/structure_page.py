"""Rows that docs/structure.md lacks: `python -m tests.docs.structure_page` prints rows to add, and rows whose file is gone."""

import ast
import re
import sys
from pathlib import Path

from tests.docs.pages import STRUCTURE, section
from tests.source_tree import ROOT, source_files

HEADING = re.compile(r"### `([\w/]+/)`")
ROW = re.compile(r"\| `([\w./-]+)` \|")


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


def missing_rows() -> list[str]:
    """A draft of a row, from the module's docstring, for each file without one."""
    drafts = []
    for path in sorted(files_to_name() - set(named_files())):
        text = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
        drafts.append(f"{path} | {text.partition(chr(10))[0].rstrip('.')[:100]}")
    return drafts


def gone_files() -> list[str]:
    return [name for name in named_files() if not (ROOT / name).is_file()]


def main() -> int:
    missing, gone = missing_rows(), gone_files()
    print("\n".join(f"missing: {row}" for row in missing))
    print("\n".join(f"gone: {name}" for name in gone))
    return 1 if missing or gone else 0


if __name__ == "__main__":
    assert Path("docs/structure.md").exists(), "run it from the project's folder"
    sys.exit(main())
