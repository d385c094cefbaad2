"""A model as a configuration refers to it: a shipped one by its name, a directory by its path, or a repository of a hub."""

import re
from pathlib import Path

from prfaas.engine.model_directory import WeightsError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_ALL_BUT_WEIGHTS = ("*.json", "*.jinja")


def model_name(reference: str) -> str:
    """Returns the name by which services know a model: the last component of its path. Raises ValueError."""
    name = Path(reference).expanduser().absolute().name if "/" in reference or reference in (".", "..") else reference
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r}, the last component of {reference!r}, cannot be a model's name: "
            "expected are up to 128 letters, digits, dots, dashes and underscores"
        )
    return name


def from_here(reference: str) -> str:
    """Returns the reference as it can be used from every working directory: a directory's path as an absolute one."""
    directory = Path(reference).expanduser()
    return str(directory.absolute()) if "/" in reference and directory.is_dir() else reference


def directory_of(reference: str, *, weights: bool) -> Path | None:
    """Returns the directory of a model that was not shipped; None for a reference that is neither a path nor a repository's.

    weights: whether a hub is to be asked for them too. Raises WeightsError."""
    directory = Path(reference).expanduser()
    if directory.is_dir():
        return directory.absolute()
    if _REPOSITORY.fullmatch(reference):
        return _hub_directory(reference, weights)
    if "/" in reference:
        raise WeightsError(f"{directory} is no directory; expected is one with a model in Hugging Face's format")
    return None


def _hub_directory(repository: str, weights: bool) -> Path:
    """Returns the repository's files in huggingface_hub's own cache, which its own settings (HF_HOME, HF_TOKEN ...) govern."""
    # Here and not above: it takes a tenth of a second, and only this kind of reference needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [*_ALL_BUT_WEIGHTS, *(_WEIGHTS if weights else ())]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except LocalEntryNotFoundError:
        reason = "the hub was not asked or not reached, and its local cache does not have it"
    except HfHubHTTPError as error:
        reason = str(error).strip().partition("\n")[0]
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    raise WeightsError(f"{repository} is neither a directory here nor a repository that could be had: {reason}")
