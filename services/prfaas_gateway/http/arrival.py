"""A request that has been let in."""

from dataclasses import dataclass

from starlette.datastructures import Headers

from prfaas_gateway.http.io import Reply
from prfaas_gateway.record import RequestRecord
from prfaas_gateway.tenants.access import Admitted
from prfaas_gateway.tenants.directory import Tenant


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A request that has been let in, beside its body."""

    headers: Headers
    reply: Reply
    record: RequestRecord
    tenant: Tenant
    admitted: Admitted
    client_id: str
    """Id that the client gave the request, or one that was made for it."""
