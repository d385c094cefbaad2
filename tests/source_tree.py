"""The project's source files as modules, and which of them imports which; for the tests of the tree itself."""

import ast
import gc
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (*sorted((ROOT / "services").glob("prfaas_*")), ROOT / "shared/prfaas", ROOT / "infra", ROOT / "load")
"""Every top-level package of the tree, tests and examples apart."""


def parsed(source: str) -> ast.Module:
    """Parses Python source. Raises SyntaxError."""
    collects = gc.isenabled()
    # A finalizer that logs a traceback parses source too, and CPython 3.11 does not bear one such work within another.
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collects:
            gc.enable()


def source_files() -> list[Path]:
    """All Python files of the packages, relative to the root."""
    return [path.relative_to(ROOT) for package in PACKAGES for path in sorted(package.rglob("*.py"))]


def module_name(path: Path) -> str:
    """Name by which `path`, relative to the root, is imported."""
    parts = path.with_suffix("").parts
    parts = parts[1:] if parts[0] in ("services", "shared") else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    """Name of each module of the tree -> its file."""
    return {module_name(path): path for path in source_files()}


def imported(tree: ast.AST, known: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """(module of the tree, imported name or "") for every import in `tree`, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in known:
                    yield whole, ""
                elif node.module in known:
                    yield node.module, alias.name


def import_graph() -> dict[str, set[str]]:
    """Module -> modules of the tree that it imports."""
    known = modules()
    return {
        name: {module for module, _ in imported(parsed((ROOT / path).read_text()), known)} - {name}
        for name, path in known.items()
    }
