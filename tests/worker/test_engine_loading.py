"""Services whose model cannot be had: they end before they are ready, with one sentence and no traceback."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prfaas.engine.model_directory import CONFIG, TOKENIZER

pytestmark = pytest.mark.slow  # each starts a process that imports torch
CONFIGURATION = {"architectures": ["GPT2LMHeadModel"], "max_position_embeddings": 64, "vocab_size": 300}
NOWHERE = "nats://127.0.0.1:1"
COMMANDS = {
    "prfaas_gateway": ["--models", "{model}", "--control.url", NOWHERE],
    "prfaas_prefill_worker": ["--engine.model", "{model}", "--serves", "here", "--control.url", NOWHERE, "--bulk.url", NOWHERE],
    "prfaas_decode_worker": ["--engine.model", "{model}", "--control.url", NOWHERE, "--bulk.url", NOWHERE],
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with a tokenizer and the configuration of a class that is not served."""
    from prfaas.engine.emulated_model import byte_tokenizer

    (tmp_path / CONFIG).write_bytes(msgspec.json.encode(CONFIGURATION))
    byte_tokenizer().save(str(tmp_path / TOKENIZER))
    return tmp_path


def last_words(service: str, model: Path) -> str:
    words = [word.format(model=model) for word in COMMANDS[service]]
    command = [sys.executable, "-m", service, "--site", "here", "--name", "one", "--http-port", "0", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stdout + done.stderr
    entries: list[dict[str, Any]] = [msgspec.json.decode(line) for line in (done.stdout + done.stderr).splitlines()]
    assert "ready" not in [entry["event"] for entry in entries]
    (crash,) = [entry for entry in entries if entry["event"] == "crashed"]
    assert "exception" not in crash
    return str(crash["error"])


@pytest.mark.parametrize("service", ["prfaas_prefill_worker", "prfaas_decode_worker"])
def test_a_worker_whose_model_is_not_served_says_why(service: str, model: Path) -> None:
    assert last_words(service, model).startswith("the class GPT2LMHeadModel is not served: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: (model / TOKENIZER).unlink(), "has no tokenizer.json"),
        (lambda model: (model / TOKENIZER).write_text("{}"), "is no tokenizer that the library `tokenizers` can read"),
        (
            lambda model: (model / CONFIG).write_bytes(msgspec.json.encode(CONFIGURATION | {"vocab_size": 200})),
            "has 256 tokens, and the model's `vocab_size` is 200: it is another model's",
        ),
        (lambda model: (model / "chat_template.jinja").write_text("{% for"), "is no Jinja: "),
    ],
)
def test_a_gateway_without_the_models_tokenizer_says_why(model: Path, change: Callable[[Path], Any], message: str) -> None:
    change(model)
    assert message in last_words("prfaas_gateway", model)
