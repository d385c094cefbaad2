"""A model's directory, read without torch: end tokens, chat template, special tokens, and the identity of its weights."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from prfaas.engine.emulated_model import EOS_TOKEN_ID
from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.model_directory import CONFIG, ModelFiles, WeightsError, read_directory
from prfaas.engine.shards import WEIGHTS, shards_of, weights_digest
from prfaas.engine.weights import prepare
from tests.engine.tiny_models import CONTEXT_TOKENS, change_config, save_tiny


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_tiny(tmp_path, "llama")


def write(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.encode(value))


def read(directory: Path) -> ModelFiles:
    return read_directory(directory, "mine")


def test_a_directory_is_prepared_where_it_lies(directory: Path) -> None:
    files = prepare(str(directory), weights=False)
    assert (files.model, files.directory) == ("llama", directory)
    assert (files.max_context_tokens, files.eos_token_ids) == (CONTEXT_TOKENS, frozenset([EOS_TOKEN_ID]))
    assert files.chat_template is None


def test_the_gateway_needs_no_weights(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    assert prepare(str(directory), weights=False).model == "llama"


def test_end_tokens_are_those_of_the_generation_first(directory: Path) -> None:
    write(directory / "generation_config.json", {"eos_token_id": [7, 9]})
    assert read(directory).eos_token_ids == {7, 9}
    assert read(directory).generation_config == {"eos_token_id": [7, 9]}
    write(directory / "generation_config.json", {})
    change_config(directory, eos_token_id=[3, 4])
    assert read(directory).eos_token_ids == {3, 4}
    (directory / "generation_config.json").unlink()
    assert read(directory).generation_config == {}
    change_config(directory, eos_token_id=None)
    assert read(directory).eos_token_ids == set()


def test_the_template_of_its_own_file_comes_before_the_tokenizers(directory: Path) -> None:
    settings = directory / "tokenizer_config.json"
    write(settings, {"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]})
    assert read(directory).chat_template == "D"
    write(settings, {"chat_template": "S", "eos_token": {"content": "</s>"}, "bos_token": "<s>", "pad_token": None})
    assert read(directory).chat_template == "S"
    assert read(directory).special_tokens == {"eos_token": "</s>", "bos_token": "<s>"}
    (directory / "chat_template.jinja").write_text("J")
    assert read(directory).chat_template == "J"
    (directory / "chat_template.jinja").unlink()
    write(settings, {"chat_template": 5})
    with pytest.raises(WeightsError, match="has a `chat_template` that is no text, but 5"):
        read(directory)


def fingerprint(directory: Path) -> str:
    return build_engine(EngineConfig(model=str(directory), device="cpu")).describe().fingerprint


def test_weights_or_configurations_that_differ_never_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of the weights, with size and times of the file as they were."""
    monkeypatch.setenv("PRFAAS_CACHE_DIR", str(tmp_path / "cache"))
    one, other = (save_tiny(tmp_path / site, "llama") for site in ("one", "other"))
    same = fingerprint(one)
    assert fingerprint(other) == same
    path = other / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    assert fingerprint(other) != same
    data[-2] ^= 1
    path.write_bytes(data)
    assert fingerprint(other) == same
    change_config(other, rms_norm_eps=1e-4)
    assert fingerprint(other) != same


def test_the_order_of_a_configurations_keys_changes_nothing(directory: Path) -> None:
    before = read(directory).config_xxh3_128
    config = msgspec.json.decode((directory / CONFIG).read_bytes())
    write(directory / CONFIG, dict(reversed(config.items())))
    assert read(directory).config_xxh3_128 == before


def test_shards_are_one_identity_each_of_their_bytes(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path, "llama", shard_bytes=100_000)
    shards = shards_of(directory)
    assert len(shards) > 2
    whole = weights_digest(read(directory), shards)
    data = bytearray(shards[-1].read_bytes())
    data[-1] ^= 1
    shards[-1].write_bytes(data)
    assert weights_digest(read(directory), shards) != whole
