"""Outcomes of a soak's requests, and the errors that its faults allow."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from load.chaos.matrix import Cell, allowed_in
from load.chaos.random_faults import Injection
from load.chaos.traffic import Ended

SETTLE_S = 15.0
"""Time after a fault's end in which its allowed errors may still come."""
NEAR_S = 60.0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    right: int
    codes: dict[str, int]
    allowed_errors: int
    lost_requests: int
    """Requests that ended with an error that no fault of the moment allows."""
    lost: list[str]
    wrong_tokens: int
    wrong: list[str]
    """Answers with other tokens than the right ones, and those."""
    hangs: int
    not_sent: int


def judge(ended: Sequence[Ended], injections: Sequence[Injection], not_sent: int) -> Verdict:
    good = ("right", "cancelled", "refused")
    lost, allowed = [], 0
    for one in ended:
        if one.code in (*good, "wrong_tokens", "hang"):
            continue
        if any(_is_during(one, each) and one.code in _allowed(each) for each in injections):
            allowed += 1
        else:
            near = [
                f"{each.fault} at {each.step}" for each in injections if each.at and each.at - 30 < one.ended_at < each.at + 60
            ]
            lost.append(f"{one.kind}: {one.code} {one.detail} after {one.ended_at - one.begun_at:.1f} s; near {', '.join(near)}")
    return Verdict(
        requests=len(ended),
        right=sum(one.code in good for one in ended),
        codes=dict(Counter(one.code for one in ended)),
        allowed_errors=allowed,
        lost_requests=len(lost),
        lost=lost,
        wrong_tokens=sum(one.code == "wrong_tokens" for one in ended),
        wrong=[f"{one.kind}: {one.detail}" for one in ended if one.code == "wrong_tokens"],
        hangs=sum(one.code == "hang" for one in ended),
        not_sent=not_sent,
    )


def _is_during(one: Ended, injection: Injection) -> bool:
    return bool(injection.at) and injection.at <= one.ended_at and one.begun_at <= injection.over_at + SETTLE_S


def _is_near(one: Ended, injection: Injection) -> bool:
    return bool(injection.at) and injection.at - NEAR_S < one.ended_at < injection.at + NEAR_S


def _allowed(injection: Injection) -> frozenset[str]:
    return allowed_in(Cell(injection.fault, injection.step)).codes


def set_recovered(injections: Sequence[Injection], ended: Sequence[Ended]) -> None:
    """Fills in how long after each fault the first right answer came to a request that was asked after it."""
    answers = sorted((one.ended_at, one.begun_at) for one in ended if one.code == "right")
    for injection in injections:
        if injection.at:
            after = [ended_at - injection.at for ended_at, begun_at in answers if begun_at >= injection.at]
            injection.recovered_s = round(min(after), 3) if after else None
