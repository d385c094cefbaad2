"""The gateway as a process: tokenizers loaded, the bus connected, the scheduler watched."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from starlette.routing import Route
from starlette.types import ASGIApp

from prfaas.bus.control import BusError, ControlBus
from prfaas.contracts import subjects
from prfaas.contracts.to_gateway import GenerateEvent
from prfaas.contracts.to_scheduler import Placement, PlaceRequest, Refusal
from prfaas.engine.weights import prepare
from prfaas.gateway.app import make_app
from prfaas.gateway.config import GatewayConfig
from prfaas.gateway.endpoint import Gateway
from prfaas.gateway.generation import Generations
from prfaas.gateway.headers import ApiKeys
from prfaas.gateway.metrics import GatewayMetrics, ModelMetrics
from prfaas.gateway.served import Admission, ServedModel
from prfaas.service.runner import ServiceContext
from prfaas.telemetry.logs import get_logger

CHECK_INTERVAL_S = 1.0
CHECK_DEADLINE_S = 2.0

log = get_logger(__name__)
