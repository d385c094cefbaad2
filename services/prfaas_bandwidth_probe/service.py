"""Shell of the probe: answers other sites, and runs one estimator per link that it measures."""

import asyncio
import secrets
import socket
import struct
import time
from collections.abc import Coroutine
from typing import Any

from msgspec.structs import replace

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, RemoteError
from prfaas.bus.presence import put_entry
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_prefill import EgressLease
from prfaas.contracts.to_probe import EgressAsked, Ping, Pong, TrainPart, TrainReport, TransferMeasured
from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas.contracts.wire import BadMessageError
from prfaas.process.runner import ServiceContext
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.link import LinkMetrics
from prfaas_bandwidth_probe.config import BandwidthProbeConfig
from prfaas_bandwidth_probe.delivered import DeliveredTogether
from prfaas_bandwidth_probe.egress import EgressAllocator
from prfaas_bandwidth_probe.estimator import LinkEstimator
from prfaas_bandwidth_probe.events import (
    Announce,
    DeepTrainAnswered,
    Event,
    PongHeard,
    Probe,
    ProbeFailed,
    SendPing,
    SendTrain,
    Tick,
    TrainAnswered,
    TransferReported,
)
from prfaas_bandwidth_probe.retransmits import RetransmitShare, segments_to
from prfaas_bandwidth_probe.train_sink import TrainSink

CONNECT_DEADLINE_S = 10.0
TICK_S = 0.1
MAX_WORKERS = 1024
"""Workers that may share one link."""

log = get_logger(__name__)


class BandwidthProbeService:
    def __init__(self, config: BandwidthProbeConfig, context: ServiceContext) -> None:
        self._config = config
        self._context = context
        self._metrics = LinkMetrics(context.registry)
        self._control: ControlBus | None = None
        self._bulk: ControlBus | None = None
        self._links: dict[str, MeasuredLink] = {}

    async def start(self) -> None:
        config = self._config
        assert config.bulk is not None
        self._control = control = await ControlBus.connect(config.control, config.name, CONNECT_DEADLINE_S)
        self._bulk = bulk = await ControlBus.connect(config.bulk, config.name, CONNECT_DEADLINE_S)
        await control.serve(subjects.probe_echo(config.site), Ping, self._pong)
        await bulk.subscribe_raw(subjects.probe_train(config.site, "*"), TrainSink(bulk).receive)
        for destination in config.measures:
            self._links[destination] = link = MeasuredLink(config, destination, control, bulk, self._metrics)
            self._context.tasks.spawn(f"measure {destination}", link.run())
        await control.subscribe(subjects.probe_transfers(config.site), TransferMeasured, self._transfer)
        await control.serve(subjects.probe_egress(config.site), EgressAsked, self._lease)

    def ready(self) -> str | None:
        """The probe needs both connections. A link that is down is what it is there to notice."""
        assert self._control is not None and self._bulk is not None
        if not self._control.connected:
            return "the control connection to the site's NATS server is down"
        if not self._bulk.connected:
            return "the bulk connection to the site's NATS server is down"
        return None

    async def drain(self, timeout_s: float) -> None:
        """Returns at once: no request waits for a probe."""

    async def stop(self) -> None:
        for bus in (self._control, self._bulk):
            if bus is not None:
                await bus.drain(timeout_s=2.0)

    async def _pong(self, _ping: Ping) -> Pong:
        return Pong(site=self._config.site)

    def _transfer(self, transfer: TransferMeasured) -> None:
        if (link := self._links.get(transfer.destination)) is not None:
            link.transferred(transfer.goodput_bytes_per_s)

    async def _lease(self, asked: EgressAsked) -> EgressLease:
        link = self._links.get(asked.destination)
        if link is None:
            raise RemoteError(
                FailureCode.NOT_MEASURED, f"the probe of {self._config.site} does not measure a link to {asked.destination}"
            )
        if not link.takes(asked.worker):
            raise RemoteError(FailureCode.OVERLOADED, f"{MAX_WORKERS} workers share the link to {asked.destination} already")
        lease = link.lease(asked)
        if lease is None:
            raise RemoteError(FailureCode.STARTING, "the probe has just started and waits to hear of all workers")
        return lease


class MeasuredLink:
    """Link from the own site to one other."""

    def __init__(
        self, config: BandwidthProbeConfig, destination: str, control: ControlBus, bulk: ControlBus, metrics: LinkMetrics
    ) -> None:
        self._source = config.site
        self._destination = destination
        self._control = control
        self._bulk = bulk
        self._metrics = metrics
        self._timeout_s = config.timeout_s
        budget_bytes_per_s = config.egress_bytes_per_s(destination)
        if budget_bytes_per_s is not None:
            metrics.budget(config.site, destination, budget_bytes_per_s)
        self._estimator = LinkEstimator(
            config.site,
            destination,
            ping_interval_s=config.ping_interval_s,
            link_share=config.link_share,
            timeout_s=config.timeout_s,
            budget_bytes_per_s=budget_bytes_per_s,
        )
        self._allocator = EgressAllocator(budget_bytes_per_s, time.monotonic())
        self._leaf = config.leafs.get(destination)
        self._delivered = DeliveredTogether()
        self._budget_bytes_per_s = budget_bytes_per_s
        self._retransmits = RetransmitShare()
        self._announced = True
        """True when the last announcement arrived: failures in a row are logged once."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as probes:
            while True:
                now_s = time.monotonic()
                self._handle(Tick(now_s, self._allocator.busy(now_s)), probes)
                await asyncio.sleep(TICK_S)

    def takes(self, worker: str) -> bool:
        return self._allocator.knows(worker) or self._allocator.workers < MAX_WORKERS

    def transferred(self, goodput_bytes_per_s: float) -> None:
        self._estimator.handle(TransferReported(time.monotonic(), goodput_bytes_per_s))

    def lease(self, asked: EgressAsked) -> EgressLease | None:
        now_s = time.monotonic()
        together = self._delivered.tell(asked.worker, asked.delivered_bytes, now_s)
        known = self._estimator.goodput_bytes_per_s
        if together is not None and known is not None and together > known / 2:  # less says nothing: nobody wanted more
            self._estimator.handle(TransferReported(now_s, together))
        lease = self._allocator.ask(asked, now_s, self._estimator.goodput_bytes_per_s, self._estimator.rtt_s)
        if lease is not None and lease.bytes_per_s is not None:
            self._metrics.leased(self._source, self._destination, self._allocator.leased_bytes_per_s(now_s))
        return lease

    def _handle(self, event: Event, probes: asyncio.TaskGroup) -> None:
        for order in self._estimator.handle(event):
            match order:
                case SendPing():
                    probes.create_task(self._probe(Probe.PING, self._ping(), probes))
                case SendTrain(parts, part_bytes, True):
                    probes.create_task(self._probe(Probe.DEEP_TRAIN, self._deep_train(parts, part_bytes), probes))
                case SendTrain(parts, part_bytes, False):
                    probes.create_task(self._probe(Probe.TRAIN, self._train(parts, part_bytes), probes))
                case Announce(estimate):
                    probes.create_task(self._announce(estimate))

    async def _probe(self, probe: Probe, sent: Coroutine[Any, Any, Event], probes: asyncio.TaskGroup) -> None:
        """Sends one probe and tells the estimator what came of it. Never raises: the answer is another site's word, and a task
        that raises ends the process."""
        try:
            event = await sent
        except (BusError, BadMessageError) as error:
            event = self._failed(error, probe)
        except Exception as error:
            FAULTS.failed["probe"] += 1
            log.error("probe_not_handled", destination=self._destination, probe=probe, exc_info=error)
            event = self._failed(error, probe)
        self._handle(event, probes)

    async def _ping(self) -> Event:
        started_s = time.perf_counter()
        await self._control.request(subjects.probe_echo(self._destination), Ping(source=self._source), Pong, self._timeout_s)
        return PongHeard(time.monotonic(), time.perf_counter() - started_s)

    async def _train(self, parts: int, part_bytes: int) -> Event:
        base_s, _ = await self._send_train(1, b"")
        train_s, _ = await self._send_train(parts, _padding(part_bytes))
        return TrainAnswered(time.monotonic(), base_s, parts * part_bytes, train_s)

    async def _deep_train(self, parts: int, part_bytes: int) -> Event:
        _, report = await self._send_train(parts, _padding(part_bytes))
        return DeepTrainAnswered(time.monotonic(), parts * part_bytes, report.tail_bytes_per_s)

    async def _send_train(self, parts: int, padding: bytes) -> tuple[float, TrainReport]:
        """Returns the seconds until the reply, and the reply. Raises BusError, BadMessageError."""
        subject = subjects.probe_train(self._destination, self._source)
        part = TrainPart(train_id=secrets.token_hex(8), padding=padding)
        started_s = time.perf_counter()
        for _ in range(parts - 1):
            await self._bulk.publish(subject, part)
        report = await self._bulk.request(subject, part, TrainReport, self._timeout_s)
        if report.parts < parts:
            raise BusError(f"{parts - report.parts} of {parts} parts were lost")
        return time.perf_counter() - started_s, report

    def _failed(self, error: Exception, probe: Probe) -> ProbeFailed:
        self._metrics.probe_failed(self._source, self._destination)
        log.debug("probe_failed", destination=self._destination, probe=probe, reason=str(error))
        return ProbeFailed(time.monotonic(), probe)

    async def _observe_leaf(self, leaf: str) -> None:
        host, _, port = leaf.rpartition(":")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            addresses = [(str(address[0]), int(port)) for *_, address in found]
            self._retransmits.observe(await asyncio.to_thread(segments_to, addresses))
            self._allocator.lose(self._retransmits.share or 0.0, time.monotonic())
        except (
            OSError,
            ValueError,
            OverflowError,
            struct.error,
        ) as error:  # a name that resolves to nothing, a port beyond 65535
            log.debug("leaf_not_observed", destination=self._destination, reason=str(error))

    async def _announce(self, estimate: LinkEstimate) -> None:
        if self._leaf is not None:
            await self._observe_leaf(self._leaf)
        estimate = replace(
            estimate,
            retransmit_share=self._retransmits.share,
            budget_bytes_per_s=self._budget_bytes_per_s,
            sent_bytes_per_s=self._delivered.latest_bytes_per_s(time.monotonic()),
        )
        self._metrics.estimated(estimate)
        try:
            await put_entry(self._control, subjects.links_bucket(self._destination), estimate, self._timeout_s)
            self._announced = True
        except BusError as error:
            if self._announced:
                log.warning("estimate_not_announced", destination=self._destination, reason=str(error))
            self._announced = False
        except Exception as error:
            # A task that raises ends the process, and what is announced holds another site's words.
            FAULTS.failed["probe"] += 1
            log.error("estimate_not_handled", destination=self._destination, exc_info=error)


def _padding(size_bytes: int) -> bytes:
    """Random bytes: a link may compress."""
    return secrets.token_bytes(size_bytes)
