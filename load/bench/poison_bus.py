"""Poisonous messages on a site's buses, sent with the site's own keys: what no process of the project ever sends."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from prfaas.bus.bulk.lane import BulkLane
from prfaas.contracts import subjects
from prfaas.site.sites import Description, Role

DEEP = b"\x91" * 50_000 + b"\xc0"
"""MessagePack list in a list in a list, of a size that a bucket's entry may have."""
_ODD_HEADERS = (
    b"",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\ntraceparent: \xff\xfe\r\n:::\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NOT/9 x\r\n\r\n",
)


class BusPoisons:
    """Sends through two lanes, one per account: they write whatever bytes they are given."""

    def __init__(self, description: Description, site: str, control: BulkLane, bulk: BulkLane, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._control, self._bulk = control, bulk
        self._site = site
        self._control_subjects = list(_control_subjects(description, site))
        buckets = [subjects.kv_bucket(site, sender.name) for sender in description.sites]
        self._bulk_subjects = [
            subjects.probe_train(site, "forged"),
            *(f"$O.{bucket}.C.forged" for bucket in buckets),
            *(f"$O.{bucket}.M.Zm9yZ2Vk" for bucket in buckets),
        ]
        self.sent = 0

    def burst(self) -> None:
        """Sends one message of some kind to every subject."""
        for lane, names in ((self._control, self._control_subjects), (self._bulk, self._bulk_subjects)):
            for subject in names:
                payload = self._random.choice(_PAYLOADS)
                self._publish(lane, subject, payload, self._random.choice(_ODD_HEADERS))
        for bucket in (subjects.workers_bucket(self._site), subjects.links_bucket(self._site)):
            for key, value in self._entries():
                self._publish(self._control, subjects.entry(bucket, key), value, b"")

    def _entries(self) -> Iterator[tuple[str, bytes]]:
        forged = f"forged{self._random.randrange(10**9)}"
        yield "local.decode.d0x", DEEP
        yield f"{forged}.prefill.p0", _tagged("Heartbeat", DEEP)
        yield f"{forged}.decode.d0", msgspec.msgpack.encode(_beat(site=forged, slots=-1))
        yield f"{forged}.prefill.p1", msgspec.msgpack.encode(_beat(site=forged, role="prefill", prefill_points=[[0, 0], [0, 1]]))
        yield f"{forged}.prefill.p2", msgspec.msgpack.encode(_beat(site="another", role="prefill", queued_s=float("nan")))
        yield f"{forged}.local", b"\xff" * 100

    def _publish(self, lane: BulkLane, subject: str, payload: bytes, headers: bytes) -> None:
        if lane.is_connected and len(payload) + len(headers) <= lane.max_payload:
            lane.publish(subject, [payload], len(payload), reply=f"{lane.inbox}.forged", headers=headers)
            self.sent += 1


def _control_subjects(description: Description, site: str) -> Iterator[str]:
    yield from (subjects.place(site), subjects.attempts(site), subjects.cancel_prefill(site, site))
    yield from (subjects.blocks(site, site, "decode", "d0"), subjects.blocks(site, "forged", "prefill", "p0"))
    yield from (subjects.probe_echo(site), subjects.probe_transfers(site), subjects.probe_egress(site))
    for service in description.services:
        if service.site != site:
            continue
        match service.role:
            case Role.GATEWAY:
                yield subjects.events_from(subjects.events(site, service.name), "d0")
            case Role.DECODE_WORKER:
                yield subjects.generate(site, service.name)
                yield subjects.cancel_generate(site, service.name)
                yield subjects.progress_from(subjects.prefill_progress(site, service.name), site, "p0")
                yield subjects.held_blocks(site, "decode", service.name)
                yield subjects.change_role(site, "decode", service.name)
            case Role.PREFILL_WORKER:
                yield subjects.held_blocks(site, "prefill", service.name)
                yield subjects.worker_alive(site, service.name)
                yield subjects.dispatched_jobs(site, service.name)
                yield subjects.jobs(site, site, service.model or description.model)
            case Role.SCHEDULER:
                yield subjects.readiness(site, "p0")
                yield subjects.cancel_prefill(site, site)
            case _:
                pass


def _tagged(name: str, value: bytes) -> bytes:
    """Map of two: the type that its subject promises, and a field that no type has, with `value`."""
    return b"\x82" + msgspec.msgpack.encode("type") + msgspec.msgpack.encode(name) + msgspec.msgpack.encode("zz") + value


def _beat(**fields: Any) -> dict[str, Any]:
    good = {"site": "forged", "worker": "w", "role": "decode", "model": "m", "fingerprint": "f", "max_context_tokens": 1}
    return {"type": "Heartbeat", **good, **fields}


def _messages() -> Sequence[dict[str, Any]]:
    place = {"type": "PlaceRequest", "request_id": "r", "model": "m", "max_tokens": 1}
    blocks = {"type": "BlocksChanged", "site": "local", "worker": "d0", "role": "decode", "incarnation": "i", "sequence": 1}
    return [
        {**place, "prompt_tokens": 0, "ttft_deadline_s": float("nan")},
        {**place, "prompt_tokens": 9, "ttft_deadline_s": 1e300, "block_hashes": b"1234567", "block_tokens": 3},
        {"type": "AttemptEnded", "request_id": "r", "site": "forged.*.>", "verified": False},
        {**blocks, "stored": b"1234567"},
        {"type": "EgressAsked", "worker": "w\r\nPUB x 0", "destination": "local", "transfers": -1, "wanted_bytes_per_s": 1},
        {"type": "TransferMeasured", "destination": "local", "goodput_bytes_per_s": float("inf")},
        {"type": "PrefillJob", "request_id": "r", "model": "m", "token_ids": b"123", "reply_to": "a b", "timeout_s": -1},
        {"type": "Tokens", "request_id": None, "sequence": "x"},
    ]


_TYPES = (
    "PlaceRequest",
    "AttemptEnded",
    "BlocksChanged",
    "Generate",
    "CancelGenerate",
    "PrefillDone",
    "PrefillJob",
    "ChangeRole",
)
_PAYLOADS = (
    b"",
    b"\x00",
    b"\xff" * 1000,
    b"\xa4\xff\xfe\xfd\xfc",
    b"\xdd\xff\xff\xff\xff",
    b"{" * 50_000,
    DEEP,
    b"\x81" * 100_000,
    *(
        _tagged(name, DEEP)
        for name in (*_TYPES, "EgressAsked", "TransferMeasured", "TrainPart", "Ping", "Tokens", "CancelPrefill")
    ),
    *(msgspec.msgpack.encode(message) for message in _messages()),
)
