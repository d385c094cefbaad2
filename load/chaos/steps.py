"""The steps of a request's protocol at which faults are brought about."""

from enum import StrEnum

from prfaas.site.sites import Role
from prfaas.telemetry.fault_points import Announcement, FaultPoint


class Step(StrEnum):
    PLACING = "placing"
    PLACED = "placed"
    ACCEPTED = "accepted"
    JOB_STORED = "job_stored"
    JOB_TAKEN = "job_taken"
    FIRST_FRAME = "first_frame"
    MIDDLE_FRAME = "middle_frame"
    MANIFEST = "manifest"
    DECODING = "decoding"


DECODED_TOKENS = 4
"""Tokens that an answer has when a fault hits its decoding."""

RECEIVERS: dict[Step, Role] = {
    Step.PLACING: Role.GATEWAY,
    Step.PLACED: Role.DECODE_WORKER,
    Step.ACCEPTED: Role.GATEWAY,
    Step.JOB_STORED: Role.PREFILL_WORKER,
    Step.JOB_TAKEN: Role.DECODE_WORKER,
    Step.FIRST_FRAME: Role.DECODE_WORKER,
    Step.MIDDLE_FRAME: Role.DECODE_WORKER,
    Step.MANIFEST: Role.DECODE_WORKER,
    Step.DECODING: Role.GATEWAY,
}
"""Role of the processes that receive what a step sends."""


def is_step(step: Step, announcement: Announcement, frames: int) -> bool:
    """Tells whether an announcement is of this step; `frames`: frames of the transfer, without the last one."""
    point, number = announcement.point, announcement.number
    match step:
        case Step.FIRST_FRAME:
            return point is FaultPoint.FRAME and number == 1  # frame 0 opens the transfer and carries no KV
        case Step.MIDDLE_FRAME:
            return point is FaultPoint.FRAME and number == frames // 2
        case Step.DECODING:
            return point is FaultPoint.DECODING and number == DECODED_TOKENS
        case _:
            return point == step.value


def of_request(announcement: Announcement, request_id: str) -> bool:
    """Tells whether the request is this one, also after it was placed again under an id with a number behind."""
    return announcement.request_id.partition("-")[0] == request_id
