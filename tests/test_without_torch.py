"""The base installation has no torch: every process imports without it, and what needs it says what to install."""

import subprocess
import sys
import tomllib

import pytest

from tests.source_tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = ("torch", "transformers", "accelerate", "gguf", "safetensors")
BARRED = """
import importlib.abc, importlib.util, sys
class Barrier(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BARRED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in BARRED else find_spec(name, package)
BARRED = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Barrier())
"""


def run(program: str, *words: str, barred: tuple[str, ...] = HEAVY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BARRED + program, ",".join(barred), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_nothing_of_torch_is_a_dependency_of_the_base_installation() -> None:
    assert set(PROJECT["dependencies"]).isdisjoint(HEAVY)
    assert set(PROJECT["optional-dependencies"]["torch"]) == set(HEAVY)
    assert "scipy" not in PROJECT["dependencies"]


def test_services_and_commands_import_without_torch_and_scipy() -> None:
    modules = [f"{path.parent.name}.service" for path in ROOT.glob("services/*/service.py")]
    modules += [f"prfaas.cli.{name}" for name in ("keys", "profile", "site", "up")] + ["prfaas.engine.emulated"]
    assert len(modules) == 10
    done = run(f"import importlib\nfor name in {modules!r}: importlib.import_module(name)", barred=(*HEAVY, "scipy"))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_planning_needs_scipy_and_no_torch() -> None:
    plan = "from prfaas.cli.__main__ import main\nsys.exit(main(['plan', '--case', 'paper', '--show']))"
    assert run(plan).returncode == 0
    without = run(plan, barred=(*HEAVY, "scipy"))
    assert (without.returncode, without.stderr) == (2, "prfaas plan: needs scipy: pip install 'prfaas[plan]'.\n")


@pytest.mark.parametrize(
    "program",
    [
        "from prfaas.engine.factory import EngineConfig, build_engine\nbuild_engine(EngineConfig())",
        "import os, tempfile\nos.environ['PRFAAS_CACHE_DIR'] = tempfile.mkdtemp()\n"
        "from prfaas.engine.weights import prepare\nprepare('gemma-3-270m')",
    ],
)
def test_a_real_model_without_torch_is_told_what_to_install(program: str) -> None:
    caught = f"try:\n    exec({program!r})\nexcept Exception as error:\n    print(type(error).__name__, error)"
    done = run(caught)
    assert done.stdout.startswith(("EngineError", "WeightsError")) and "pip install 'prfaas[torch]'" in done.stdout, done
