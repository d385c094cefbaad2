"""Questions to the gateways that have requests here, so that a dead one's slots are free within seconds."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, BusTimeoutError, NoRespondersError
from prfaas.contracts import subjects
from prfaas.telemetry.logs import get_logger
from prfaas_decode_worker.gateways import GatewayProcess, Gateways
from prfaas_decode_worker.request import Request

ASK_EVERY_S: Final = 0.5
_ANSWER_TIMEOUT_S: Final = 2.0

log = get_logger(__name__)


class GatewayWatch:
    """Asks each gateway whether it is there, while it has requests here."""

    def __init__(
        self,
        bus: ControlBus,
        site: str,
        requests: Mapping[str, Request],
        give_up: Callable[[str], None],
    ) -> None:
        """Calls `give_up` with the id of each of the `requests` whose gateway is gone."""
        self._bus = bus
        self._site = site
        self._requests = requests
        self._give_up = give_up
        self._gateways = Gateways()

    async def run(self) -> None:
        while True:
            present = sorted({gateway for request in self._requests.values() if (gateway := _gateway_of(request))})
            self._gateways.forget_others(present)
            gone = await asyncio.gather(*map(self._is_gone, present))
            for gateway, is_gone in zip(present, gone, strict=True):
                if is_gone:
                    self._lose(gateway)
            await asyncio.sleep(ASK_EVERY_S)

    def _lose(self, gateway: GatewayProcess) -> None:
        lost = [request_id for request_id, request in self._requests.items() if _gateway_of(request) == gateway]
        log.warning("gateway_lost", gateway=gateway.name, incarnation=gateway.incarnation, requests=len(lost))
        for request_id in lost:
            self._give_up(request_id)

    async def _is_gone(self, gateway: GatewayProcess) -> bool:
        clock = asyncio.get_running_loop().time
        try:
            subject = subjects.gateway_alive(self._site, gateway.name, gateway.incarnation)
            await self._bus.request_raw(subject, b"", _ANSWER_TIMEOUT_S)
        except NoRespondersError:
            return self._gateways.handle_absence(gateway, clock())
        except BusTimeoutError:
            return self._gateways.handle_silence(gateway, clock())
        except BusError:
            return False  # this worker's own connection is down, which says nothing about the gateway
        self._gateways.handle_answer(gateway, clock())
        return False


def _gateway_of(request: Request) -> GatewayProcess | None:
    """Returns None for a gateway that does not say who it is."""
    generate = request.generate
    return GatewayProcess(generate.gateway, generate.gateway_incarnation) if generate.gateway_incarnation else None
