"""The engine loaded, with log lines before and after: it is what a worker does longest before it is ready."""

import asyncio
import time
from concurrent.futures import Executor

from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.model_directory import WeightsError
from prfaas.engine.protocol import Engine, EngineError
from prfaas.process.runner import StartRefusedError
from prfaas.telemetry.logs import get_logger

_log = get_logger(__name__)
_LONG_TOKENS = 1 << 14
"""Tokens of a prompt longer than any window, so that each further token adds what it always adds."""


async def load_engine(config: EngineConfig, executor: Executor | None = None) -> Engine:
    """Builds the engine in a thread of the executor, or of the loop's own. Raises StartRefusedError."""
    started_at = time.monotonic()
    _log.info("engine_loading", model=config.model_name, engine=config.engine, threads=config.threads)
    try:
        engine = await asyncio.get_running_loop().run_in_executor(executor, build_engine, config)
    except (WeightsError, EngineError) as error:
        raise StartRefusedError(str(error)) from error
    layout = engine.describe().layout
    _log.info(
        "engine_loaded",
        model=config.model_name,
        took_s=time.monotonic() - started_at,
        dtype=layout.dtype,
        kv_bytes_per_token=round((layout.total_bytes(2 * _LONG_TOKENS) - layout.total_bytes(_LONG_TOKENS)) / _LONG_TOKENS),
    )
    return engine
