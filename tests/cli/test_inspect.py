"""`prfaas inspect`: what a model is made of, from its configuration alone."""

import re
from pathlib import Path

import msgspec
import pytest

from prfaas.cli.__main__ import main
from prfaas.engine.factory import EngineConfig, build_engine

pytestmark = pytest.mark.slow

HYBRID = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": "bfloat16", "hidden_size": 1024, "head_dim": 128,
    "intermediate_size": 3072, "max_position_embeddings": 40_960, "num_attention_heads": 16, "num_hidden_layers": 4,
    "num_key_value_heads": 8, "vocab_size": 1000, "use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 2,
}  # fmt: skip


def write(directory: Path, **changes: object) -> str:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_bytes(msgspec.json.encode(HYBRID | changes))
    return str(directory)


def test_layers_and_kv_come_from_the_configuration_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", write(tmp_path / "hybrid")]) == 0
    said = capfd.readouterr().out
    assert "2 of full attention (8 KV heads of 128), 2 of sliding attention (window of 4,096 tokens, 8 KV heads of 128)" in said
    assert "KV of one token more, once all windows are full: 8,192 bytes" in said
    # 1,024 tokens are within the window: 4 layers x 2 x 8 heads x 128 x 2 bytes each.
    assert re.search(rf"1,024 +{1024 * 16_384 / 1e6:.1f} MB +16,384", said)
    assert re.search(rf"32,768 +{(32_768 * 8_192 + 4_095 * 8_192) / 1e6:.1f} MB", said)
    assert "131,072" not in said, "the context ends before"
    assert "served: yes" in said


def test_latents_are_what_the_kv_of_latent_attention_consists_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    named = {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2"}
    of_lite = {"num_key_value_heads": 16, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
    without = {"head_dim": None, "use_sliding_window": None, "sliding_window": None, "max_window_layers": None}
    assert main(["inspect", write(tmp_path / "lite", **named, **of_lite, **without)]) == 0
    said = capfd.readouterr().out
    assert "layers: 4 of full attention (1 KV heads of 512 and 64)" in said
    assert "once all windows are full: 4,608 bytes" in said


def test_a_shipped_model_is_what_its_engine_says(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "gemma-3-270m"]) == 0
    layout = build_engine(EngineConfig()).describe().layout
    assert f"{layout.total_bytes(8192) / 1e6:.1f} MB" in capfd.readouterr().out


def test_what_cannot_be_served_is_said_with_the_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    types = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
    assert main(["inspect", write(tmp_path / "linear", architectures=["GptOssForCausalLM"], layer_types=types)]) == 1
    said = capfd.readouterr().out
    assert "layers: 3 of linear_attention, 1 of full_attention" in said
    assert "served: no, the class GptOssForCausalLM is not served: its attention sinks" in said


def test_recurrent_layers_have_states_of_one_size_at_every_length(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Sizes of Qwen3-Next-80B-A3B, whose configuration does not name the types of its layers."""
    config = {
        "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "head_dim": 256, "num_hidden_layers": 48,
        "num_key_value_heads": 2, "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    }  # fmt: skip
    assert main(["inspect", write(tmp_path / "next", **config, use_sliding_window=None, sliding_window=None)]) == 0
    said = capfd.readouterr().out
    # In float32 a matrix of 128 x 128 in each of 32 heads; in bfloat16 four tokens of queries, keys and values.
    state_bytes = 32 * 128 * 128 * 4 + (2 * 16 + 32) * 128 * 4 * 2
    assert f"36 of recurrent state ({state_bytes:,} bytes), 12 of full attention (2 KV heads of 256)" in said
    assert f"states of all recurrent layers, at every length: {36 * state_bytes:,} bytes" in said
    assert "KV of one token more, once all windows are full: 24,576 bytes" in said
    assert re.search(rf"8,192 +{(8192 * 24_576 + 36 * state_bytes) / 1e6:.1f} MB", said)


def test_a_link_and_a_profile_say_where_offloading_can_pay(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory = write(tmp_path / "hybrid", max_position_embeddings=200_000)
    assert main(["inspect", directory, "--link-mbit", "1000", "--rtt-ms", "20"]) == 0
    assert f"{8192 * 8_192 * 8 / 1e9 + 4_095 * 8_192 * 8 / 1e9 + 0.02:.3g}" in capfd.readouterr().out
    points = [{"tokens": n, "prefill_s": s, "kv_bytes": 1e6} for n, s in ((1024, 0.1), (8192, 1.0), (131_072, 20.0))]
    (tmp_path / "mine.json").write_bytes(msgspec.json.encode({"name": "mine", "source": "made up", "prefill": points}))
    assert main(["inspect", directory, "--link-mbit", "1000", "--profile", str(tmp_path / "mine.json")]) == 0
    rows = {line.split()[0]: line for line in capfd.readouterr().out.splitlines() if line.endswith("pay")}
    assert {tokens: "cannot" in line for tokens, line in rows.items()} == {
        "1,024": True, "8,192": False, "32,768": False, "131,072": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "the model 'absent' is unknown"),
        (["/absent/model"], "/absent/model is no directory"),
        (["emulated-1t"], "is emulated: it has no configuration"),
        (["gemma-3-270m", "--rtt-ms", "5"], "need --link-mbit"),
        (["gemma-3-270m", "--link-mbit", "5", "--profile", "no-such"], "there is no built-in profile no-such"),
    ],
)
def test_wrong_words_are_told(words: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *words]) == 2
    assert message in capfd.readouterr().err
