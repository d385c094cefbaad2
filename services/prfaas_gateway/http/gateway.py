"""Parts of the gateway that all requests share."""

from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from prfaas.process.request_ids import request_id_of
from prfaas.telemetry.logs import get_logger
from prfaas_gateway.admission import Admission
from prfaas_gateway.config import GatewayConfig
from prfaas_gateway.generation import Generations
from prfaas_gateway.grammar_check import GrammarChecker
from prfaas_gateway.http.headers import authorization_of
from prfaas_gateway.http.io import Bodies
from prfaas_gateway.large_requests import LargeRequestReader
from prfaas_gateway.models import ServedModel
from prfaas_gateway.observers import Observers
from prfaas_gateway.openai.unknown_fields import UnknownFields
from prfaas_gateway.tenants.access import Access
from prfaas_gateway.tenants.directory import Caller
from prfaas_gateway.tokenizing import chosen_model

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Parts that all requests share."""

    config: GatewayConfig
    models: dict[str, ServedModel]
    access: Access
    admission: Admission
    bodies: Bodies
    large_requests: LargeRequestReader
    grammars: GrammarChecker
    generations: Generations
    observers: Observers

    def model(self, name: str | None) -> ServedModel:
        """Returns the model of a name; None: the only one. Raises ApiError 404, and 400 where there are several."""
        return chosen_model(name, self.models)

    def unknown_fields(self) -> UnknownFields | None:
        """Returns where a request's unknown fields go; None: they are refused."""
        return UnknownFields() if self.config.ignore_unknown_fields else None

    def ignored(self, unknown: UnknownFields | None) -> None:
        """Counts and logs the unknown fields of a request."""
        if unknown is not None and unknown.count:
            self.observers.edge.ignored_fields.inc(unknown.count)
            log.debug("unknown_fields_ignored", count=unknown.count, first=unknown.first)

    def caller(self, scope: Scope) -> Caller:
        """Raises ApiError 401."""
        return self.access.check(authorization_of(Headers(scope=scope)), who_asks(scope))


def address_of(scope: Scope) -> str:
    return str((scope.get("client") or ("",))[0])


def who_asks(scope: Scope) -> dict[str, str]:
    """Returns what an audit line says of a client."""
    return {"client": address_of(scope), "client_request_id": request_id_of(scope)}
