"""Trains a tiny model of the class Qwen3-Next, three layers of linear attention to one of full attention, in a few minutes.

python -m examples.tiny_hybrid tiny-hybrid       # on the source of this Python's own library; the weights stay on this machine
make demo MODEL=$PWD/tiny-hybrid                 # two sites with it, and the proof that both give one answer
"""

import argparse
import math
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

from prfaas.engine.packed_linear import can_pack

VOCABULARY = 2048
EOS = "<eos>"
"""The only special token, hence token 0."""
SEQUENCE_TOKENS = 512
BATCH = 4
LEARNING_RATE = 2e-3
HELD_OUT_TOKENS = 8 * SEQUENCE_TOKENS


def library_text() -> list[str]:
    """Returns the modules of the standard library."""
    return [path.read_text(errors="ignore") for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))]


def tokenizer_of(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    alphabet = ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, BpeTrainer(vocab_size=VOCABULARY, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def new_model(eos_token_id: int) -> Any:
    """Returns 8 M random weights. Decays begin slow, so that the state has something to carry."""
    config = Qwen3NextConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, linear_num_key_heads=4, linear_num_value_heads=4, linear_key_head_dim=64,
        linear_value_head_dim=64, mlp_only_layers=list(range(8)), max_position_embeddings=16_384, tie_word_embeddings=True,
        bos_token_id=None, pad_token_id=None, eos_token_id=eos_token_id,
    )  # fmt: skip
    model = Qwen3NextForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            parameter.data.uniform_(math.log(0.002), math.log(0.2))
    return model


def batches(ids: torch.Tensor) -> Iterator[torch.Tensor]:
    while True:
        starts = torch.randint(len(ids) - SEQUENCE_TOKENS, (BATCH,)).tolist()
        yield torch.stack([ids[start : start + SEQUENCE_TOKENS] for start in starts])


def train(model: Any, ids: torch.Tensor, seconds: float) -> None:
    """Trains for a time. The learning rate rises for a twentieth of it and then falls to nothing."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.95))
    started_at = said_at = time.monotonic()
    for step, batch in enumerate(batches(ids)):
        done = (time.monotonic() - started_at) / seconds
        if done >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(done / 0.05, 0.5 + 0.5 * math.cos(math.pi * done))
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if time.monotonic() - said_at > 20:
            said_at = time.monotonic()
            print(f"{done:4.0%}  step {step}  loss {loss.item():.2f}", flush=True)


def loss_of(model: Any, batch: torch.Tensor) -> torch.Tensor:
    # In bfloat16 on a CPU that has instructions for it: several times as many steps in the same time.
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=can_pack(torch.bfloat16, torch.device("cpu"))):
        loss: torch.Tensor = model(input_ids=batch, labels=batch, use_cache=False).loss
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    arguments = parser.parse_args()
    torch.manual_seed(1)
    texts = library_text()
    tokenizer = tokenizer_of(texts)
    ids = torch.tensor([token for encoded in tokenizer.encode_batch(texts) for token in encoded.ids])
    model = new_model(eos_token_id=0)
    print(f"{len(ids):,} tokens, {sum(each.numel() for each in model.parameters()):,} parameters", flush=True)
    train(model, ids[:-HELD_OUT_TOKENS], 60 * arguments.minutes)
    with torch.inference_mode():
        loss = float(loss_of(model.eval(), ids[-HELD_OUT_TOKENS:].view(-1, SEQUENCE_TOKENS)))
    model.bfloat16().save_pretrained(arguments.directory)
    tokenizer.save(str(arguments.directory / "tokenizer.json"))
    print(f"perplexity of text that it has not seen: {math.exp(loss):.1f}. The model is in {arguments.directory.absolute()}")


if __name__ == "__main__":
    main()
