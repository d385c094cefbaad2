"""A model's sampling defaults: what is taken over, what a request leaves to them, and what the client is told."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.model_directory import WeightsError
from prfaas.engine.weights import SOURCES, prepare
from prfaas_gateway.sampling_defaults import SamplingDefaults, defaults_of, header_of
from tests.gateway.bodies import HELLO
from tests.gateway.conftest import running_edge

ASK = {"model": "tiny", "prompt": "hello"}
CHAT = {"model": "tiny", "messages": HELLO}
QWEN = {
    "bos_token_id": 1, "do_sample": True, "eos_token_id": [2, 3], "pad_token_id": 1, "repetition_penalty": 1.05,
    "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0, "max_new_tokens": 20, "transformers_version": "4.51.0",
}  # fmt: skip
TAKEN = "temperature=0.6, top_p=0.95, top_k=20, min_p=0.0, repetition_penalty=1.05"


def test_what_vllm_takes_is_taken() -> None:
    taken, left = defaults_of(QWEN)
    assert taken == SamplingDefaults(temperature=0.6, top_p=0.95, top_k=20, min_p=0.0, repetition_penalty=1.05, max_tokens=20)
    assert left == []


@pytest.mark.parametrize(("settings", "says"), [
    ({"do_sample": False}, "do_sample=False (not done here)"),
    ({"num_beams": 4}, "num_beams=4 (not done here)"),
    ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size=3 (not done here)"),
    ({"suppress_tokens": [1, 2]}, "suppress_tokens=[1, 2] (not done here)"),
    ({"made_up_since": {"a": 1}}, "made_up_since={'a': 1} (not done here)"),
    ({"temperature": 2.5}, "temperature=2.5 (Expected `float` <= 2.0)"),
    ({"top_p": 0}, "top_p=0 (Expected `float` > 0.0)"),
    ({"top_k": "many"}, "top_k='many' (Expected `int | null`, got `str`)"),
    ({"max_new_tokens": 0}, "max_new_tokens=0 (Expected `int` >= 1)"),
])  # fmt: skip
def test_what_cannot_be_taken_is_named(settings: dict[str, Any], says: str) -> None:
    taken, left = defaults_of({**settings, "min_p": 0.1})
    assert (taken, left) == (SamplingDefaults(min_p=0.1), [says])


@pytest.mark.parametrize("settings", [
    {}, {"temperature": None, "num_beams": 1, "typical_p": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0},
    {"do_sample": True, "use_cache": True, "suppress_tokens": None, "early_stopping": False},
])  # fmt: skip
def test_what_asks_for_nothing_is_no_default_and_needs_no_word(settings: dict[str, Any]) -> None:
    assert defaults_of(settings) == (SamplingDefaults(), [])


@pytest.mark.parametrize("model", ["emulated-1t", *SOURCES])
def test_models_that_are_shipped_have_no_defaults(model: str) -> None:
    try:
        files = prepare(model)
    except WeightsError as error:
        pytest.skip(str(error))
    assert defaults_of(files.generation_config) == (SamplingDefaults(), [])


def test_no_header_says_nothing() -> None:
    assert header_of({}) == {}


async def test_requests_that_do_not_say_are_sampled_as_the_model_says(tmp_path: Path) -> None:
    async with running_edge(tmp_path, of_model=QWEN) as edge:
        answer = await edge.post("/v1/chat/completions", CHAT)
        assert answer.headers["x-prfaas-sampling-defaults"] == f"{TAKEN}, max_tokens=20"
        assert edge.site.generated[-1].sampling == Sampling(
            max_tokens=20, temperature=0.6, top_p=0.95, top_k=20, min_p=0.0, repetition_penalty=1.05, stop=("\nQ:",)
        )
        # 16 tokens are what a completion that does not say gets already: the model's 20 decide nothing.
        answer = await edge.post("/v1/completions", {**ASK, "stream": True})
        assert answer.headers["x-prfaas-sampling-defaults"] == TAKEN
        assert edge.site.generated[-1].sampling.max_tokens == 16


async def test_what_a_request_says_goes_before_what_the_model_says(tmp_path: Path) -> None:
    said = {"temperature": 1, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1, "max_tokens": 60}
    async with running_edge(tmp_path, of_model=QWEN) as edge:
        answer = await edge.post("/v1/completions", {**ASK, "temperature": 0, "top_k": None})
        assert answer.headers["x-prfaas-sampling-defaults"] == "top_p=0.95, top_k=20, min_p=0.0, repetition_penalty=1.05"
        assert edge.site.generated[-1].sampling.temperature == 0
        answer = await edge.post("/v1/chat/completions", {**CHAT, **said})
        assert answer.status_code == 200, answer.text
        assert "x-prfaas-sampling-defaults" not in answer.headers
        assert edge.site.generated[-1].sampling == Sampling(max_tokens=60, top_k=-1, stop=("\nQ:",))


async def test_a_large_request_gets_them_too(tmp_path: Path) -> None:
    async with running_edge(tmp_path, of_model={"temperature": 0.6}) as edge:
        answer = await edge.post("/v1/completions", {**ASK, "metadata": {"filler": "x" * 70_000}})
        assert answer.headers["x-prfaas-sampling-defaults"] == "temperature=0.6"
        assert edge.site.generated[-1].sampling == Sampling(max_tokens=16, temperature=0.6)


async def test_the_switch_of_vllm_leaves_openais_defaults(tmp_path: Path) -> None:
    async with running_edge(tmp_path, of_model=QWEN, generation_config="vllm") as edge:
        answer = await edge.post("/v1/completions", ASK)
        assert "x-prfaas-sampling-defaults" not in answer.headers
        assert edge.site.generated[-1].sampling == Sampling(max_tokens=16)


@pytest.mark.parametrize(("switch", "lines"), [("auto", 1), ("vllm", 0)])
async def test_the_log_says_what_is_not_taken(tmp_path: Path, switch: str, lines: int) -> None:
    with capture_logs() as logs:
        async with running_edge(tmp_path, of_model={"num_beams": 4, "temperature": 0.6}, generation_config=switch):
            pass
    said = [each["settings"] for each in logs if each["event"] == "generation_config_not_taken_over"]
    assert said == [["num_beams=4 (not done here)"]] * lines
