"""Routes of the gateway, and errors outside of its endpoints."""

from collections.abc import Sequence

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from prfaas import __version__
from prfaas.contracts.codes import FailureCode
from prfaas.telemetry.logs import get_logger
from prfaas_gateway.anthropic.dialect import MESSAGES
from prfaas_gateway.console.console import Console
from prfaas_gateway.console.http import Door, console_routes
from prfaas_gateway.dialect import Dialect
from prfaas_gateway.dialects import DIALECTS
from prfaas_gateway.http.endpoint import Endpoint
from prfaas_gateway.http.exchange import Exchange
from prfaas_gateway.http.gateway import Gateway
from prfaas_gateway.http.tokenizing import TokenizingExchange
from prfaas_gateway.models import ServedModel
from prfaas_gateway.openai.dialect import COMPLETIONS
from prfaas_gateway.openai.errors import ApiError, internal
from prfaas_gateway.openai.openapi import openapi_document
from prfaas_gateway.openai.types import Model, ModelList, Version
from prfaas_gateway.tenants.access import RATE_LIMIT_HEADERS
from prfaas_gateway.tenants.directory import Caller

log = get_logger(__name__)


RESPONSE_HEADERS = (
    "x-request-id", "x-prfaas-outcome", "x-prfaas-prefill-site", "x-prfaas-reason", "x-prfaas-sampling-defaults",
    "x-prfaas-trace-id", "retry-after", "x-should-retry", *RATE_LIMIT_HEADERS,
)  # fmt: skip
"""Headers that a page of another origin may read."""


def make_app(gateway: Gateway, service_routes: Sequence[Route], console: Console | None = None) -> ASGIApp:
    async def models(request: Request) -> Response:
        gateway.caller(request.scope)
        return _json(ModelList(data=[_model(*each) for each in gateway.models.items()]))

    async def one_model(request: Request) -> Response:
        gateway.caller(request.scope)
        name = request.path_params["name"]
        return _json(_model(name, gateway.model(name)))

    async def version(_request: Request) -> Response:
        return _json(Version(version=__version__))

    document = msgspec.json.encode(
        openapi_document(has_keys=gateway.config.tenants_file is not None, ignores_unknown=gateway.config.ignore_unknown_fields)
    )

    async def openapi(_request: Request) -> Response:
        return Response(document, media_type="application/json")

    def generating(name: str) -> Endpoint:
        return Endpoint(gateway, name, lambda arrival, body: Exchange(gateway, name, arrival).answer(body), DIALECTS[name].error)

    def tokenizing(name: str, dialect: Dialect = COMPLETIONS) -> Endpoint:
        return Endpoint(
            gateway, name, lambda arrival, body: TokenizingExchange(gateway, name, arrival).answer(body), dialect.error
        )

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", generating("chat.completions"), methods=["POST"]),
            Route("/v1/completions", generating("completions"), methods=["POST"]),
            Route("/v1/responses", generating("responses"), methods=["POST"]),
            Route("/v1/messages", generating("messages"), methods=["POST"]),
            Route("/v1/messages/count_tokens", tokenizing("messages.count_tokens", MESSAGES), methods=["POST"]),
            Route("/tokenize", tokenizing("tokenize"), methods=["POST"]),
            Route("/detokenize", tokenizing("detokenize"), methods=["POST"]),
            Route("/version", version),
            Route("/openapi.json", openapi),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            *_console_routes(gateway, console),
            *service_routes,
        ],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error, Exception: _crash},
    )
    if not gateway.config.cors_origins:
        return app
    # Around the whole app, not among its middleware: pages must be able to read errors too.
    return CORSMiddleware(
        app,
        allow_origins=gateway.config.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=RESPONSE_HEADERS,
    )


def _console_routes(gateway: Gateway, console: Console | None) -> list[Route]:
    if console is None:
        return []
    config, directory = gateway.config, gateway.access.directory
    seeing_all = frozenset(config.console_tenants)
    door = Door(
        caller=gateway.caller,
        may_see_all=lambda caller: not caller.tenant.name or caller.tenant.name in seeing_all,
        still_known=lambda authorization: isinstance(directory.find(authorization), Caller),
        write_timeout_s=config.write_deadline_s,
    )
    return console_routes(console, door)


def _model(name: str, model: ServedModel) -> Model:
    return Model(id=name, created=model.created, max_model_len=model.context_tokens)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return Response(error.encode(), error.status, error.headers, "application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        answer = ApiError(404, f"Unknown request URL: {request.method} {request.url.path}.", code=FailureCode.UNKNOWN_URL)
    else:
        answer = ApiError(
            error.status_code, f"{request.method} {request.url.path}: {error.detail}.", code=FailureCode.METHOD_NOT_ALLOWED
        )
    dialect: Dialect = MESSAGES if f"{request.url.path}/".startswith("/v1/messages/") else COMPLETIONS
    return Response(dialect.error(answer), answer.status, {**answer.headers, **(error.headers or {})}, "application/json")


async def _crash(request: Request, error: Exception) -> Response:
    log.error("request_crashed", path=request.url.path, exc_info=error)
    return await _api_error(request, internal("The gateway failed on this request; its log says why."))
