"""Harm that hostile clients do to others: time to first token, and what the gateway holds, alone and beside each attack.

`python -m load.bench.hostile [--rounds 4] [--seconds 6] [--attacks a,b] [--json FILE]`. One stack with emulated engines and two
gateways, of which the second one may open 1,024 files. Each round measures each gateway alone, then beside each attack. Every
good request has a connection of its own.
"""

import argparse
import asyncio
import datetime
import json
import resource
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from load.bench.hostile.attacks import KINDS
from load.bench.hostile.good_clients import Felt, Peaks, ask_for, watch
from load.emulated_stack import HOME, MODEL, two_sites
from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.process import interruption
from prfaas.process.child import end_with_parent
from prfaas.secrets.api_keys import make_key
from prfaas.secrets.tenants_file import Limits, add_key
from prfaas.site.sites import Description, Role, Service
from prfaas.stack.launch import START_ERRORS, fresh_directory, say
from prfaas.stack.service_process import ServiceProcess
from prfaas.stack.stack import READY_DEADLINE_S, STOP_DEADLINE_S, Stack

FEW_FILES: Final = 1024
DESCRIPTORS: Final = "descriptors"
"""Attack with idle sockets on the gateway that may open few files."""
TENANTS: Final = {
    "good": Limits(),
    "stranger": Limits(),
    "greedy": Limits(requests_at_once=16),
    "limited": Limits(requests_per_minute=6),
}
KEY_OF: Final = {"long_answers": "greedy", "slow_readers": "greedy", "many_prompts": "greedy", "above_limits": "limited"}
ALLOWED: Final = frozenset({"many_prompts"})
"""Work that a tenant's limits allow. It takes its share of the workers, so it is shown and has no bar."""
MAX_RATIO: Final = 2.0
WARM_UP_S: Final = 1.5
SETTLE_S: Final = 1.0


class Arm(msgspec.Struct):
    """All phases of one attack, or of none."""

    felt: Felt
    peaks: Peaks
    attempts: dict[str, int]


def describe(tenants_file: Path) -> Description:
    description = two_sites(remote_workers=1, rate_mbit=200.0, scheduler={"policy": "local_only"}, time_scale=16.0)
    config = {"tenants-file": str(tenants_file)}
    few = Service(site=HOME, role=Role.GATEWAY, name="few", config=config)
    changed: dict[Role, dict[str, Any]] = {Role.GATEWAY: config, Role.DECODE_WORKER: {"slots": 32, "waiting": 32}}
    services = [
        msgspec.structs.replace(service, config=service.config | changed.get(service.role, {}))
        for service in description.services
    ]
    return msgspec.structs.replace(description, services=(*services, few))


def make_tenants(path: Path) -> dict[str, str]:
    """Returns the tenants' keys."""
    keys = {name: make_key() for name in TENANTS}
    for name, key in keys.items():
        add_key(path, key, name, TENANTS[name], datetime.datetime.now(datetime.UTC).date())
    return {name: key.text for name, key in keys.items()}


async def restart_with_few_files(gateway: ServiceProcess) -> None:
    await gateway.stop(STOP_DEADLINE_S)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, before[1]))
    try:
        await gateway.spawn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    await gateway.wait_ready(READY_DEADLINE_S)


async def phase(gateway: ServiceProcess, attack: str | None, keys: dict[str, str], seconds: float, seed: int) -> Arm:
    peaks, attempts = Peaks(), dict[str, int]()
    watching = asyncio.create_task(watch(gateway.pid, peaks))
    attacker = None if attack is None else await _start_attack(attack, gateway.http_port, keys)
    try:
        await asyncio.sleep(WARM_UP_S)
        felt = await ask_for(seconds, gateway.http_port, MODEL, keys["good"], seed)
    finally:
        watching.cancel()
        if attacker is not None:
            attempts = await _stop_attack(attacker)
    await asyncio.sleep(SETTLE_S)
    return Arm(felt, peaks, attempts)


async def _start_attack(attack: str, port: int, keys: dict[str, str]) -> asyncio.subprocess.Process:
    kind = "idle_sockets" if attack == DESCRIPTORS else attack
    words = [kind, "--port", str(port), "--model", MODEL, "--key", keys[KEY_OF.get(attack, "stranger")]]
    attacker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "load.bench.hostile.attacks", *words),
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=end_with_parent(),
    )
    assert attacker.stdout is not None
    async with asyncio.timeout(READY_DEADLINE_S):
        assert await attacker.stdout.readline() == b"ready\n", "the attacker says when it has begun"
    return attacker


async def _stop_attack(attacker: asyncio.subprocess.Process) -> dict[str, int]:
    attacker.terminate()
    try:
        async with asyncio.timeout(STOP_DEADLINE_S):
            output, _ = await attacker.communicate()
    except TimeoutError:
        attacker.kill()
        raise
    ends: dict[str, int] = json.loads(output)
    return ends


async def measure(attacks: Sequence[str], rounds: int, seconds: float) -> dict[str, Any]:
    directory = fresh_directory("bench-hostile")
    keys = make_tenants(directory / "tenants.toml")
    found_at = conditions("uvicorn", "httptools")
    arms: dict[tuple[str, str], Arm] = {}
    async with Stack(describe(directory / "tenants.toml"), directory, progress=say) as stack:
        gateways = {name: stack.services[HOME, name] for name in ("gateway", "few")}
        await restart_with_few_files(gateways["few"])
        for number in range(rounds):
            order = [("gateway", None), *(("few" if each == DESCRIPTORS else "gateway", each) for each in attacks)]
            order += [("few", None)] if DESCRIPTORS in attacks else []
            for at, (name, attack) in enumerate(order):
                seed = 100 * number + at
                arm = await phase(gateways[name], attack, keys, seconds, seed)
                kept = arms.setdefault((name, attack or "alone"), Arm(Felt(), Peaks(), {}))
                kept.felt.add(arm.felt)
                kept.peaks.add(arm.peaks)
                kept.attempts = dict(Counter(kept.attempts) + Counter(arm.attempts))
                say(f"round {number + 1}: {_line(name, attack or 'alone', arm)}")
        exits = sum(process.exit_code is not None for process in stack.services.values())
    return {"summary": summary_of(arms, exits), "arms": figures_of(arms), "rounds": rounds, "seconds": seconds} | {
        "conditions": found_at
    }


def _line(name: str, attack: str, arm: Arm) -> str:
    felt = arm.felt
    return (
        f"{attack:>15} at {name:<7}: TTFT P50 {_percentile(felt, 50) * 1e3:5.0f} ms, P99 {_percentile(felt, 99) * 1e3:5.0f} ms, "
        f"{len(felt.failures)} of {len(felt.ttft_s) + len(felt.failures)} failed; {arm.peaks.rss_mib:.0f} MiB, "
        f"{arm.peaks.files} files, {arm.peaks.cpu_share:.2f} CPU; attacker's ends: {arm.attempts or '-'}"
    )


def _percentile(felt: Felt, percent: int) -> float:
    """Returns infinity where too few were answered."""
    return statistics.quantiles(felt.ttft_s, n=100)[percent - 1] if len(felt.ttft_s) > 1 else float("inf")


def figures_of(arms: dict[tuple[str, str], Arm]) -> list[dict[str, Any]]:
    return [
        {
            "gateway": name,
            "attack": attack,
            "requests": len(arm.felt.ttft_s) + len(arm.felt.failures),
            "failures": dict(Counter(arm.felt.failures)),
            "ttft_p50_s": _percentile(arm.felt, 50),
            "ttft_p99_s": _percentile(arm.felt, 99),
            "ttft_p99_ratio": _percentile(arm.felt, 99) / _percentile(arms[name, "alone"].felt, 99),
            "peak_rss_mib": arm.peaks.rss_mib,
            "peak_files": arm.peaks.files,
            "cpu_share": arm.peaks.cpu_share,
            "attackers_ends": arm.attempts,
        }
        for (name, attack), arm in arms.items()
    ]


def summary_of(arms: dict[tuple[str, str], Arm], exits: int) -> dict[str, Any]:
    figures = [each for each in figures_of(arms) if each["attack"] != "alone"]
    return {
        "worst_p99_ratio": max((each["ttft_p99_ratio"] for each in figures if each["attack"] not in ALLOWED), default=1.0),
        "p99_ratios": {each["attack"]: round(each["ttft_p99_ratio"], 2) for each in figures},
        "failures": sum(sum(each["failures"].values()) for each in figures_of(arms)),
        "most_rss_over_alone_mib": max(
            (each["peak_rss_mib"] - arms[each["gateway"], "alone"].peaks.rss_mib for each in figures), default=0.0
        ),
        "exits": exits,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench.hostile", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each phase; default: %(default)s")
    parser.add_argument("--attacks", default=",".join([*KINDS, DESCRIPTORS]), help="default: %(default)s")
    add_json_option(parser)
    arguments = parser.parse_args()
    attacks = arguments.attacks.split(",")
    if wrong := set(attacks) - {*KINDS, DESCRIPTORS}:
        parser.error(f"there is no attack {', '.join(sorted(wrong))}")
    try:
        result = interruption.run(measure(attacks, arguments.rounds, arguments.seconds))
    except START_ERRORS as error:
        print(f"load.bench.hostile: {error}", file=sys.stderr)
        return 1
    for figure in result["arms"]:
        print(
            f"{figure['attack']:>15}: P99 {figure['ttft_p99_s'] * 1e3:.0f} ms, {figure['ttft_p99_ratio']:.2f} of alone; "
            f"{sum(figure['failures'].values())} failed; at most {figure['peak_rss_mib']:.0f} MiB, {figure['peak_files']} files"
        )
    summary = result["summary"]
    print(json.dumps(summary))
    write_json(result, arguments.json)
    return 1 if summary["exits"] or summary["failures"] or summary["worst_p99_ratio"] > MAX_RATIO else 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
