"""References to models: names, directories and repositories of a hub, and the name by which services know each."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prfaas.engine.model_directory import WeightsError
from prfaas.engine.model_reference import directory_of, from_here, model_name


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("gemma-3-270m", "gemma-3-270m"),
        ("/models/Llama-3.2-1B", "Llama-3.2-1B"),
        ("/models/Llama-3.2-1B/", "Llama-3.2-1B"),
        ("./mine", "mine"),
        ("organization/model_2", "model_2"),
    ],
)
def test_a_model_is_known_by_the_last_component_of_its_path(reference: str, name: str) -> None:
    assert model_name(reference) == name


def test_the_working_directory_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert model_name(".") == "mine"


@pytest.mark.parametrize("reference", ["", "/", "/models/my model", "a>b", "/models/" + "x" * 129])
def test_what_no_subject_could_carry_is_no_name(reference: str) -> None:
    with pytest.raises(ValueError, match="cannot be a model's name: expected are up to 128 letters"):
        model_name(reference)


def test_a_directory_is_found_by_any_path_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for reference in ("models/mine", "./models/mine", str(tmp_path / "models/mine")):
        assert directory_of(reference, weights=True) == tmp_path / "models" / "mine"
        assert from_here(reference) == str(tmp_path / "models" / "mine")
    assert directory_of("mine", weights=True) is None
    assert from_here("gemma-3-270m") == "gemma-3-270m"


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"/absent is no directory; expected is one with a model in Hugging Face's format"):
        directory_of(str(tmp_path / "absent"), weights=True)


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    """A cache as huggingface_hub lays it out, of a repository with one revision."""
    cached = tmp_path / "hub" / "models--organization--tiny"
    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = cached / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    (snapshot / "config.json").write_text("{}")
    return snapshot


PROGRAM = """
import sys
from pathlib import Path
from prfaas.engine.model_directory import WeightsError
from prfaas.engine.model_reference import directory_of
try:
    print(directory_of(sys.argv[1], weights=False))
except WeightsError as error:
    print(error)
"""


def located(reference: str, home: Path) -> str:
    """Runs in a process of its own, since huggingface_hub reads its settings when it is imported."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, reference], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_repository_is_found_in_the_hubs_own_cache(hub_cache: Path, tmp_path: Path) -> None:
    assert located("organization/tiny", tmp_path) == str(hub_cache)


def test_a_repository_that_cannot_be_had_is_named(hub_cache: Path, tmp_path: Path) -> None:
    shutil.rmtree(hub_cache.parent.parent)
    said = located("organization/tiny", tmp_path)
    assert said.startswith("organization/tiny is neither a directory here nor a repository that could be had: ")
    assert "\n" not in said
