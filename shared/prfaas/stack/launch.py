"""Parts that all programs share that start a stack: descriptions at hand, errors of a start, folders of runs."""

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from prfaas.engine.emulated_model import EMULATED_MODELS
from prfaas.engine.model_directory import WeightsError
from prfaas.engine.model_reference import from_here
from prfaas.site.sites import Description, DescriptionError, Role, Service, load_description
from prfaas.stack.nats_server import NatsServerError
from prfaas.stack.service_process import ServiceProcessError
from prfaas.wan.process import WanProcessError

DEMO = Path(str(files("prfaas.stack") / "demo.toml"))
EMULATED_MODEL = "emulated-1t"
RUN_DIRECTORY = Path(".run")
"""Folder of all runs, in the working directory."""

START_ERRORS = (NatsServerError, WanProcessError, ServiceProcessError, DescriptionError, WeightsError)

_EMULATED_ENGINE = {
    "engine": "emulated",
    # A prompt of 1,000 tokens takes a second, and its KV half a second on the demo's link.
    "emulated": {"time-scale": 4.0, "byte-scale": 6000.0, "token-scale": 32.0},
    "chunk-tokens": 256,
}


def say(line: str) -> None:
    print(line, flush=True)


def fresh_directory(name: str) -> Path:
    """Makes an empty folder. Logs of the last run stay until the next one of the same name."""
    directory = (RUN_DIRECTORY / name).absolute()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def describe(path: Path, model: str | None, port: int | None) -> Description:
    """Returns the description with the model and the gateway's port replaced where asked for. Raises DescriptionError."""
    description = load_description(path)
    gateways = sum(service.role is Role.GATEWAY for service in description.services)

    def at_port(service: Service) -> Service:
        if not port or service.role is not Role.GATEWAY:
            return service
        if gateways == 1:
            return msgspec.structs.replace(service, http_port=port)
        return msgspec.structs.replace(service, config=service.config | {"http-shared-port": port})

    services = tuple(map(at_port, description.services))
    return msgspec.structs.replace(description, services=services, model=from_here(model or description.model))


def emulated(description: Description) -> Description:
    """Returns the description with engines that need neither torch nor weights. Its model stays if it is an emulated one."""
    changes: dict[Role, dict[str, Any]] = {
        Role.PREFILL_WORKER: {"engine": _EMULATED_ENGINE},
        Role.DECODE_WORKER: {"engine": _EMULATED_ENGINE},
        Role.SCHEDULER: {"policy": "threshold", "threshold-tokens": 600},
    }
    services = tuple(
        msgspec.structs.replace(service, config=changes.get(service.role, {}) | service.config, model="")
        for service in description.services
    )
    model = description.model if description.model in EMULATED_MODELS else EMULATED_MODEL
    return msgspec.structs.replace(description, model=model, services=services)
