"""Bugs made by hand, each a small change of one real core: the worlds must find every one of them."""

from collections import deque
from typing import Any, Final

import xxhash
from msgspec.structs import replace as replaced

from load.worlds.audit_mutations import AUDIT_MUTATIONS
from load.worlds.leadership_mutations import LEADERSHIP_MUTATIONS
from load.worlds.mutation import Change, Mutation
from load.worlds.plan import LINK_FAULTS
from load.worlds.sealing_mutations import SEALING_MUTATIONS
from prfaas.contracts.codes import FailureCode
from prfaas.link.link_core import LinkCore
from prfaas.transfer import frame, sealed_frame
from prfaas.transfer import receiver_events as receiving
from prfaas.transfer.bucket_keeper_core import BucketKeeperCore
from prfaas.transfer.receiver_core import ReceiverCore
from prfaas.transfer.sender_core import SenderCore
from prfaas_decode_worker import service_core as decode
from prfaas_decode_worker.admission import Admission
from prfaas_decode_worker.events import EndAttempt
from prfaas_decode_worker.prefill_deaths import PrefillDeaths
from prfaas_decode_worker.request import Phase, Request
from prfaas_gateway.decode_workers import DecodeWorkers
from prfaas_gateway.joined_answer import JoinedAnswer
from prfaas_prefill_worker.service_core import PrefillCore
from prfaas_scheduler.breaker import Breaker
from prfaas_scheduler.fleet import Fleet


def _does_nothing(_: Any) -> Any:
    return lambda *arguments, **named: None


def _returns(value: Any) -> Change:
    return lambda original: lambda *arguments, **named: value


# ---- the decode worker's core


def _keep_cancelled(end: Any) -> Any:
    def changed(core: Any, request: Any, ended: str, now_s: float) -> Any:
        return [] if ended == FailureCode.CANCELLED else end(core, request, ended, now_s)

    return changed


def _same_attempt(next_attempt: Any) -> Any:
    def changed(request: Any, now_s: float) -> Any:
        order = next_attempt(request, now_s)
        return order if request.attempt == 1 else type(order)(**{**_fields(order), "attempt": 1})

    return changed


def _fields(order: Any) -> dict[str, Any]:
    return {name: getattr(order, name) for name in order.__slots__}


def _attempt_goes_on(end: Any) -> Any:
    def changed(core: Any, request: Any, ended: str, now_s: float) -> Any:
        return [each for each in end(core, request, ended, now_s) if not isinstance(each, EndAttempt)]

    return changed


def _nothing_again(of: Any) -> Any:
    def changed(cls: Any, *arguments: Any) -> Any:
        request = of.__func__(cls, *arguments)
        request.again = deque()
        return request

    return classmethod(changed)


def _repeats_number(next_sequence: Any) -> Any:
    def changed(request: Any) -> Any:
        number = next_sequence(request)
        return max(0, number - 1) if number > 2 else number

    return changed


def _no_fallback(give_up: Any) -> Any:
    def changed(request: Any, code: str, message: str, now_s: float) -> Any:
        site = request.prefill_site
        told = give_up(request, code, message, now_s)
        request.prefill_site = site
        return told

    return changed


def _engine_forgiven(give_up: Any) -> Any:
    def changed(request: Any, *arguments: Any) -> Any:
        request.engine_failures = -1
        return give_up(request, *arguments)

    return changed


def _all_complete(_: Any) -> Any:
    def changed(admission: Any) -> Any:
        return [request for request in admission.requests.values() if request.phase is Phase.RUNNING]

    return property(changed)


# ---- the transfer


def _unchecked(decode_frame: Any) -> Any:
    def changed(message: memoryview) -> Any:
        fields = frame._FIELDS.unpack_from(message)
        whole = xxhash.xxh3_128(message[: frame._FIELDS.size])
        whole.update(message[frame.HEADER_BYTES :])
        head = bytes(message[: frame._FIELDS.size]) + whole.digest()
        return decode_frame(memoryview(head + bytes(message[frame.HEADER_BYTES :]))) if fields else None

    return changed


def _rewinds_too_far(rewind: Any) -> Any:
    def changed(core: Any, why: str) -> Any:
        return [
            receiving.Rewind(each.stream_sequence + 1) if isinstance(each, receiving.Rewind) else each
            for each in rewind(core, why)
        ]

    return changed


def _skips_a_frame(restart_at: Any) -> Any:
    def changed(core: Any, stored: int, *arguments: Any) -> Any:
        out = restart_at(core, stored, *arguments)
        if not core.finished and core.next < core.queued:
            core.next += 1
            core._base = core.next
            core.acked = core.next
            core._sizes.popleft()
        return out

    return changed


def _outstanding_stays(restart_at: Any) -> Any:
    def changed(core: Any, *arguments: Any) -> Any:
        before = core.outstanding_bytes
        out = restart_at(core, *arguments)
        core.outstanding_bytes = before
        return out

    return changed


# ---- gateway and scheduler


def _last_token_again(place_again: Any) -> Any:
    def changed(answer: Any) -> None:
        place_again(answer)
        del answer.token_ids[-1:]

    return changed


def _numbers_from_one(take: Any) -> Any:
    def changed(answer: Any, event: Any) -> Any:
        taken = take(answer, event)
        return replaced(taken, sequence=taken.sequence + 1) if taken is not None and answer._offset else taken

    return changed


def _stays_open(succeeded: Any) -> Any:
    def changed(breaker: Any) -> None:
        open_until = breaker._open_until
        succeeded(breaker)
        if open_until is not None:
            breaker._open_until = float("inf")

    return changed


def _never_over(handle_beat: Any) -> Any:
    def changed(workers: Any, key: str, beat: Any, now_s: float) -> None:
        lost = dict(workers._lost_at)
        handle_beat(workers, key, beat, now_s)
        if beat is not None:
            workers._lost_at = {worker: at for worker, at in workers._lost_at.items() if worker in lost}

    return changed


def _counts_twice(remove_placement: Any) -> Any:
    def changed(fleet: Any, request_id: str) -> Any:
        site = fleet.placed.get(request_id)
        return None if site is not None and site.site != fleet.site else remove_placement(fleet, request_id)

    return changed


def _runs_second_delivery(vet: Any) -> Any:
    return lambda core, job, age_s, deliveries: vet(core, job, age_s, max(1, deliveries - 1))


MUTATIONS: Final = (
    Mutation("a cancelled request keeps its slot", decode.DecodeCore, "_end", _keep_cancelled),
    Mutation("the next attempt has the number of the first", decode, "next_attempt", _same_attempt),
    Mutation("a request ends and its attempt goes on", decode.DecodeCore, "_end", _attempt_goes_on),
    Mutation("a late request is not failed", decode.DecodeCore, "_tick", _returns([]), (), "storm"),
    Mutation("tokens that were sent are not computed again", Request, "of", _nothing_again, ("kill",)),
    Mutation("an event's number is repeated", Request, "next_sequence", _repeats_number),
    Mutation("the fallback site is forgotten", decode, "give_up", _no_fallback),
    Mutation("engine failures are not counted", decode, "give_up", _engine_forgiven, ("broken",)),
    Mutation("deaths of prefill workers are not counted", PrefillDeaths, "died", _does_nothing, ("deadly",)),
    Mutation("the batch is larger than its slots", Admission, "batch", _all_complete),
    Mutation("a redelivered job is run", PrefillCore, "_vet", _runs_second_delivery, ("kill", "stop", "deadly")),
    Mutation("a cancelled job is run", PrefillCore, "cancelled", _returns(False)),
    Mutation("a frame's checksum is not compared", sealed_frame, "decode_frame", _unchecked, ("flip_delivery",), "single"),
    Mutation("reading again begins one frame too late", ReceiverCore, "_rewind", _rewinds_too_far, ("flip_delivery",), "single"),
    Mutation("a lost delivery is not read again", ReceiverCore, "_lost", _returns([]), ("unplug",), "single"),
    Mutation("a sender that goes on skips a frame", SenderCore, "_restart_at", _skips_a_frame, LINK_FAULTS),
    Mutation("what was given up counts as under way", SenderCore, "_restart_at", _outstanding_stays, LINK_FAULTS),
    Mutation("an ended transfer keeps its turn", LinkCore, "leave", _does_nothing),
    Mutation("orphans in the bucket are never overdue", BucketKeeperCore, "handle", _returns([]), ("kill",)),
    Mutation("the last token is sent again after a move", JoinedAnswer, "place_again", _last_token_again, ("kill",)),
    Mutation("events are misnumbered after a move", JoinedAnswer, "take", _numbers_from_one, ("kill",)),
    Mutation("a name that comes back hides the one that died", DecodeWorkers, "handle_beat", _never_over, ("kill",)),
    Mutation("the breaker never closes", Breaker, "succeeded", _stays_open),
    Mutation("lost placements never expire", Fleet, "_forget_placement", _does_nothing, ("drop", "unplug", "kill")),
    Mutation("a request is placed twice", Fleet, "remove_placement", _counts_twice),
    *LEADERSHIP_MUTATIONS,
    *SEALING_MUTATIONS,
    *AUDIT_MUTATIONS,
)
