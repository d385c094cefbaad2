"""Structured logs: one line per event on stderr, JSON or for a console; the standard library's logging goes the same way."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import msgspec
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger


def set_up_logs(*, level: str, format: Literal["json", "console"], **fields: str) -> None:
    """Takes over the process's logging. `fields` (service, site, instance) go on every line."""

    def add_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**event, **fields}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_fields,
        _add_current_span,
    ]
    render: list[Processor]
    if format == "json":
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    else:
        render = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    if level != "debug":
        for chatty in ("asyncio", "nats", "urllib3", "uvicorn", "httpx"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Logger for lines such as `log.info("kv_installed", bytes=n)`: the event is a snake_case name, the rest are fields."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger


@contextmanager
def request_logs(request_id: str, span: trace.Span | None = None) -> Iterator[None]:
    """Lines logged inside, also by tasks started inside, carry the request's id and the span's."""
    context = span.get_span_context() if span is not None else None
    ids = _ids(context) if context is not None and context.is_valid else {}
    with structlog.contextvars.bound_contextvars(request_id=request_id, **ids):
        yield


def _add_current_span(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    return {**event, **_ids(context)} if context.is_valid else event


def _ids(context: trace.SpanContext) -> dict[str, str]:
    return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}


def _to_json(event: EventDict, **_options: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
