"""Endpoints that read a body: who may ask, when there is room, and each error told once."""

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from prfaas.contracts.codes import FailureCode
from prfaas.process.request_ids import request_id_of
from prfaas.telemetry.logs import get_logger
from prfaas_gateway.http.arrival import Arrival
from prfaas_gateway.http.gateway import Gateway, address_of, who_asks
from prfaas_gateway.http.headers import check_request_id
from prfaas_gateway.http.io import Body, ClientGoneError, Reply, until_disconnect
from prfaas_gateway.openai.errors import ApiError, internal
from prfaas_gateway.record import CLIENT_GONE_STATUS, RequestRecord

log = get_logger(__name__)

Answer = Callable[[Arrival, Body], Coroutine[Any, Any, None]]
"""Answers a request whose body has arrived. Raises ApiError, ClientGoneError."""


class Endpoint:
    """An ASGI application of its own: Starlette's responses notice only after their start that a client has left."""

    def __init__(
        self, gateway: Gateway, name: str, answer: Answer, error_body: Callable[[ApiError], bytes] = ApiError.encode
    ) -> None:
        """`name` is the endpoint's in metrics and logs. `error_body`: makes the body of a response that is an error."""
        self._gateway = gateway
        self._error_body = error_body
        self._name = name
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway, config = self._gateway, self._gateway.config
        headers = Headers(scope=scope)
        record = RequestRecord(self._name, gateway.observers)
        reply = Reply(send, config.write_deadline_s)
        error_code: str | None = FailureCode.CLIENT_GONE
        status = CLIENT_GONE_STATUS
        try:
            try:
                client_id = request_id_of(scope)
                record.identified(client_id)
                check_request_id(headers)
                caller = gateway.caller(scope)
                record.of_tenant(caller.tenant.name, caller.tenant.label)
                gateway.admission.check()
                client = caller.tenant.name or address_of(scope)
                with (
                    gateway.access.enter(caller, reply.headers, who_asks(scope)) as admitted,
                    Body(headers, receive, config.max_body_bytes, gateway.bodies, client) as body,
                ):
                    await body.arrive(config.read_deadline_s)
                    # Only now: a body that arrives slowly holds no place among the requests in flight.
                    with gateway.admission.enter():
                        arrival = Arrival(
                            headers=headers, reply=reply, record=record, tenant=caller.tenant, admitted=admitted,
                            client_id=client_id,
                        )  # fmt: skip
                        await until_disconnect(receive, reply, self._answer(arrival, body))
                error_code = None
            except ApiError as error:
                error_code = error.body.code or FailureCode.INVALID_REQUEST
                await self._tell(error, reply)
            except ClientGoneError:
                raise
            except Exception as error:
                log.exception("request_crashed", endpoint=self._name)
                error_code = type(error).__name__
                await self._tell(internal("The gateway failed on this request; its log says why."), reply)
            assert reply.status is not None
            status = reply.status
        except ClientGoneError as gone:
            error_code = gone.code
        finally:
            record.ended(status, error_code)

    async def _tell(self, error: ApiError, reply: Reply) -> None:
        if reply.status is None:
            await reply.json(error.status, [self._error_body(error)], error.headers)
            return
        # The status is out already. A client must not take the end of the stream for the end of the answer.
        await reply.write(reply.failure(error), last=True)
