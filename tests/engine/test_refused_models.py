"""Models that are not served, and directories that hold no whole model: each is refused with a sentence, before it is loaded."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.model_directory import CONFIG, TOKENIZER, WeightsError, read_directory
from prfaas.engine.self_test import SelfTestError, self_test
from prfaas.engine.served_classes import REFUSED, SERVED, UnservableModelError, Windows
from prfaas.engine.shards import WEIGHTS
from prfaas.engine.torch_engine import TorchEngine
from prfaas.kvcache.layout import KVPiece, LayerKind
from tests.engine.tiny_models import change_config, save_tiny, save_untested

LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip


def rewritten(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS, {"format": "pt"})


def drop_norm(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.norm.weight"]


def add_tensor(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.self_attn.sinks"] = torch.zeros(4)


def narrow_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :32].contiguous()


def cut_short(directory: Path) -> None:
    data = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(data[:-100])


CONFIG_CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"architectures": None}, r"`architectures` is None; expected is the name of one class"),
    (
        "llama",
        {"architectures": ["StarCoder9ForCausalLM"]},
        "StarCoder9ForCausalLM is not served: no test has proven it",
    ),
    (
        "llama",
        {"architectures": ["OwnForCausalLM"], "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}},
        "OwnForCausalLM is not served: it needs code of its own",
    ),
    (
        "llama",
        {"architectures": ["MistralForCausalLM"]},
        "`model_type` is 'llama', which is not that of the class Mistral",
    ),
    ("llama", {"quantization_config": {"quant_method": "awq", "bits": 4}}, r"its weights are quantized \(awq\)"),
    ("llama", {"text_config": {}}, "nested `text_config`"),
    ("llama", {"sliding_window": 16}, "`sliding_window` is 16, and layers of the model type llama have no windows"),
    (
        "mixtral-window",
        {"layer_types": ["full_attention"] * 3},
        "`layer_types` is set, and layers of the model type mixtral",
    ),
    ("qwen3", {"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "layers of type linear_attention"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        "`rope_type` 'dynamic' depends",
    ),
    ("phi3", {"rope_parameters": LONGROPE}, "`rope_type` 'longrope' depends on the length of the whole text"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, r"`attn_logit_softcapping` is 50\.0"),
    ("granite-hybrid", {"time_step_limit": [0.001, 0.1]}, r"`time_step_limit` is \[0\.001, 0\.1\]"),
    ("gemma3", {"use_bidirectional_attention": True}, "`use_bidirectional_attention` is set"),
    ("gemma3", {"sliding_window": 1}, "`sliding_window` is 1; expected are at least 2 tokens"),
    ("llama", {"hidden_size": "wide"}, "transformers does not take the configuration"),
    ("llama", {"max_position_embeddings": None}, "has `max_position_embeddings` None; expected is a number of tokens"),
    ("llama", {"eos_token_id": "</s>"}, "has `eos_token_id` '</s>'; expected is a token id, or a list of them"),
    ("llama", {"dtype": "float16"}, r"the weights' dtype is float16; set `engine\.dtype` to one of bfloat16, float32"),
    ("phi3", {"pad_token_id": 32_000}, "transformers cannot load the model in .*: Padding_idx must be within num_embeddings"),
    ("llama", {"num_hidden_layers": 4}, "are not those of its configuration. missing: model.layers.3.input_layernorm.weight"),
    ("llama", {"num_hidden_layers": 2}, "are not those of its configuration. not in the class: model.layers.2.input_layernorm"),
    ("llama", {"intermediate_size": 80}, r"wrong shapes: .*mlp.down_proj.weight \[64, 96\] instead of \[64, 80\]"),
]
FILE_CHANGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda directory: (directory / CONFIG).unlink(), "has no config.json"),
    (lambda directory: (directory / CONFIG).write_text("{"), "config.json is no JSON object"),
    (lambda directory: (directory / TOKENIZER).unlink(), "has no tokenizer.json: expected is the file"),
    (lambda directory: (directory / WEIGHTS).unlink(), "has neither model.safetensors nor model.safetensors.index.json"),
    (lambda directory: (directory / WEIGHTS).write_bytes(b"\0" * 100), "model.safetensors is no file of the format safetensors"),
    (cut_short, "it was not copied whole"),
    (lambda directory: rewritten(directory, drop_norm), "missing: model.norm.weight"),
    (lambda directory: rewritten(directory, add_tensor), "not in the class: model.layers.0.self_attn.sinks"),
    (lambda directory: rewritten(directory, narrow_head), r"wrong shapes: lm_head.weight \[320, 32\] instead of \[320, 64\]"),
    (lambda directory: (directory / "adapter_config.json").write_text("{}"), "holds an adapter"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    directory = tmp_path_factory.mktemp("saved")

    def save(tiny: str) -> Path:
        return directory / tiny if (directory / tiny).exists() else save_tiny(directory, tiny)

    return save


@pytest.fixture
def copy_of(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A saved model that the test may change."""
    return lambda tiny: Path(shutil.copytree(saved(tiny), tmp_path / tiny))


def refusal(directory: Path) -> str:
    with pytest.raises(WeightsError) as refused:
        build_engine(EngineConfig(model=str(directory), device="cpu"))
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("tiny", "changes", "expected"), CONFIG_CHANGES)
def test_a_configuration_that_is_not_proven_is_refused_by_name(
    copy_of: Callable[[str], Path], tiny: str, changes: dict[str, Any], expected: str
) -> None:
    directory = copy_of(tiny)
    if "eos_token_id" in changes:
        (directory / "generation_config.json").unlink()
    change_config(directory, **changes)
    with pytest.raises(WeightsError, match=expected):
        raise WeightsError(refusal(directory))


@pytest.mark.parametrize(("change", "expected"), FILE_CHANGES)
def test_a_directory_that_holds_no_whole_model_is_refused(
    copy_of: Callable[[str], Path], change: Callable[[Path], Any], expected: str
) -> None:
    directory = copy_of("llama")
    change(directory)
    with pytest.raises(WeightsError, match=expected):
        raise WeightsError(refusal(directory))


@pytest.mark.parametrize("name", REFUSED)
def test_a_class_that_is_known_not_to_be_right_is_refused_with_the_reason(copy_of: Callable[[str], Path], name: str) -> None:
    directory = copy_of("llama")
    change_config(directory, architectures=[name])
    assert refusal(directory) == f"the class {name} is not served: {REFUSED[name]}"


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path, "llama", shard_bytes=100_000)
    shards = sorted(directory.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    assert refusal(directory) == (
        f"{directory} lacks {shards[1].name} of the {len(shards)} files that model.safetensors.index.json names"
    )


def test_a_model_larger_than_the_memory_is_refused_before_it_is_read(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """The file is sparse: it says that it has 4 TB of weights, and has them nowhere."""
    directory = Path(shutil.copytree(saved("llama"), tmp_path / "large"))
    elements = 10**12
    header = msgspec.json.encode({"lm_head.weight": {"dtype": "F32", "shape": [elements], "data_offsets": [0, 4 * elements]}})
    with (directory / WEIGHTS).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 4 * elements)
    assert "take 4000.00 GB of memory, and this host has" in refusal(directory)


def unlisted(monkeypatch: pytest.MonkeyPatch, name: str, windows: Windows, directory: Path) -> TorchEngine:
    """Returns an engine of a class that the list refuses."""
    monkeypatch.setitem(SERVED, name, windows)
    monkeypatch.delitem(REFUSED, name)
    return TorchEngine(read_directory(directory, "unlisted"), dtype="auto", chunk_tokens=32, device=torch.device("cpu"))


def test_the_self_test_finds_attention_sinks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 48, "rope_parameters": rope}
    engine = unlisted(monkeypatch, "GptOssForCausalLM", Windows.BY_LAYER, save_untested(tmp_path, "GptOss", config))
    with pytest.raises(SelfTestError, match="layer 0 asks attention for s_aux, which the kernels here leave out"):
        self_test(engine)


def test_the_self_test_finds_soft_caps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    directory = save_untested(tmp_path, "Gemma2", {"attn_logit_softcapping": None, "head_dim": 16})
    engine = unlisted(monkeypatch, "Gemma2ForCausalLM", Windows.BY_LAYER, directory)
    self_test(engine)
    engine.model.model.layers[0].self_attn.attn_logit_softcapping = 50.0
    with pytest.raises(SelfTestError, match="layer 0 asks attention for softcap"):
        self_test(engine)


def engine_of(directory: Path) -> TorchEngine:
    return TorchEngine(read_directory(directory, directory.name), dtype="auto", chunk_tokens=32, device=torch.device("cpu"))


def test_the_self_test_finds_a_window_that_the_layout_does_not_have(saved: Callable[[str], Path]) -> None:
    engine = engine_of(saved("mistral-window"))
    specs = [msgspec.structs.replace(spec, kind=LayerKind.FULL, window_tokens=0) for spec in engine.layout.layers]
    engine.layout = msgspec.structs.replace(engine.layout, layers=tuple(specs))
    with pytest.raises(SelfTestError, match="layer 0 asks for a window of 48 tokens, and the KV layout has None"):
        self_test(engine)


class Forgetful(TorchEngine):
    """Loses the keys of one layer on the way."""

    def install(self, sequence: Any, piece: KVPiece) -> None:
        keys = memoryview(bytes(len(piece.keys))) if piece.range.layer == 1 else piece.keys
        super().install(sequence, piece._replace(keys=keys))


def test_the_self_test_finds_lost_keys(saved: Callable[[str], Path]) -> None:
    directory = saved("llama")
    engine = Forgetful(read_directory(directory, "llama"), dtype="auto", chunk_tokens=32, device=torch.device("cpu"))
    with pytest.raises(SelfTestError, match=r"fails its self-test: .* differ by .* for|in float32 at most 0\.0001 is rounding"):
        self_test(engine)


def test_refusals_are_weights_errors_that_programs_can_tell_apart(copy_of: Callable[[str], Path]) -> None:
    directory = copy_of("llama")
    change_config(directory, architectures=["GPT2LMHeadModel"])
    with pytest.raises(UnservableModelError):
        build_engine(EngineConfig(model=str(directory), device="cpu"))


def test_transformers_has_all_classes_that_are_served() -> None:
    assert all(hasattr(transformers, name) for name in SERVED)
