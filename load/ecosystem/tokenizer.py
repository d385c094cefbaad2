"""A model's tokenizer in the places where other clients look for it, without a hub.

`python -m load.ecosystem.tokenizer MODEL FOLDER` writes it and prints what to set and to say.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from prfaas.engine.model_directory import ModelFiles
from prfaas.engine.weights import prepare
from prfaas.process import interruption

OWNER = "prfaas"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja")
_LEAST = {
    "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False},
    "config.json": {},
}
"""Files that transformers wants beside a tokenizer; emulated models have none."""


def hub_name(model: str) -> str:
    """Returns the name that a client gives to transformers."""
    return f"{OWNER}/{model}"


def write_hub_cache(files: ModelFiles, home: Path) -> Path:
    """Writes the tokenizer as a snapshot in a Hugging Face cache and returns the snapshot's folder. `home`: HF_HOME."""
    cached = home / "hub" / f"models--{OWNER}--{files.model}"
    snapshot = cached / "snapshots" / "1"
    snapshot.mkdir(parents=True, exist_ok=True)
    (cached / "refs").mkdir(exist_ok=True)
    (cached / "refs" / "main").write_text("1", encoding="utf-8")
    for name in _TOKENIZER_FILES:
        source = files.tokenizer.parent / name
        if source.exists():
            shutil.copyfile(source, snapshot / name)
        elif name in _LEAST:
            (snapshot / name).write_text(json.dumps(_LEAST[name]), encoding="utf-8")
    return snapshot


def hub_environ(home: Path) -> dict[str, str]:
    """Returns what keeps transformers in that cache and off the network."""
    return {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.ecosystem.tokenizer", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    home = arguments.folder.resolve()
    snapshot = write_hub_cache(prepare(arguments.model), home)
    print("export " + " ".join(f"{name}={value}" for name, value in hub_environ(home).items()))
    print(f"# aiperf --tokenizer {hub_name(arguments.model)}; guidellm --tokenizer kind=huggingface_auto,model={snapshot}")


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
