"""The rules of the tree: services share only shared/prfaas; the lab uses public faces only."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVICES = {path.name for path in (ROOT / "services").iterdir() if path.name.startswith("prfaas_")}


def imports(folder: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0 or node.module is not None
                yield path, node.module or ""


def test_services_never_import_one_another() -> None:
    assert len(SERVICES) >= 5
    wrong = []
    for service in SERVICES:
        for path, module in imports(f"services/{service}"):
            if module.split(".")[0] in SERVICES - {service}:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong


def test_shared_code_knows_no_service_and_no_lab() -> None:
    wrong = []
    for path, module in imports("shared/prfaas"):
        if module.split(".")[0] in {"infra", "load"} | SERVICES:
            wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong


def test_the_structure_page_names_every_folder() -> None:
    page = (ROOT / "docs/structure.md").read_text()
    folders = [f"services/{service}/" for service in SERVICES]
    folders += [f"shared/prfaas/{p.name}/" for p in (ROOT / "shared/prfaas").iterdir() if p.is_dir() and p.name != "__pycache__"]
    assert [folder for folder in folders if folder not in page] == []
