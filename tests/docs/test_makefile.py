import re
import subprocess

from tests.source_tree import ROOT


def test_make_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    lines = [line.split(maxsplit=1) for line in shown.splitlines() if line.startswith("  ")]
    assert sorted(name for name, _ in lines) == sorted(phony[1].split())


def test_every_target_that_a_page_or_the_workflow_calls_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci/run", *(ROOT / "docs").rglob("*.md")]
    called = {name for page in pages for name in re.findall(r"(?:^|`|exec )make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert {"demo", "test", "test-fast", "bench-kv"} <= called
    assert called <= targets
