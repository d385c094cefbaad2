"""Parts of the gateway that all requests share."""

from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from prfaas.process.request_ids import request_id_of
from prfaas_gateway.admission import Admission
from prfaas_gateway.config import GatewayConfig
from prfaas_gateway.generation import Generations
from prfaas_gateway.grammar_check import GrammarChecker
from prfaas_gateway.http.headers import authorization_of
from prfaas_gateway.http.io import Bodies
from prfaas_gateway.large_requests import LargeRequestReader
from prfaas_gateway.models import ServedModel
from prfaas_gateway.observers import Observers
from prfaas_gateway.openai.errors import unknown_model
from prfaas_gateway.tenants.access import Access
from prfaas_gateway.tenants.directory import Caller


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

    def model(self, name: str) -> ServedModel:
        """Raises ApiError 404."""
        if name not in self.models:
            raise unknown_model(name, list(self.models))
        return self.models[name]

    def caller(self, scope: Scope) -> Caller:
        """Raises ApiError 401."""
        return self.access.check(authorization_of(Headers(scope=scope)), who_asks(scope))


def address_of(scope: Scope) -> str:
    return str((scope.get("client") or ("",))[0])


def who_asks(scope: Scope) -> dict[str, str]:
    """Returns what an audit line says of a client."""
    return {"client": address_of(scope), "client_request_id": request_id_of(scope)}
