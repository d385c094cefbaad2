"""`make replay`: the shipped Mooncake excerpt against a stack at the paper's scale that this starts, with emulated engines.

4 prefill instances in the remote site, 3 prefill and 5 decode instances in the local one; time, bytes and tokens are scaled to
this machine. The traffic is sent by `prfaas replay`, as anyone would send it to a stack of their own.
"""

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from load.paper.__main__ import REUSE_CHUNK_TOKENS
from load.paper.results import CASE_SLO, TPOT_S
from load.paper.stack import Scales, description
from load.simulate.cases import CACHE_BYTES
from load.simulate.paper import DEPLOYMENTS, HOME, THRESHOLD_TOKENS
from load.simulate.policies import POLICIES, scheduler_keys
from load.traces import MOONCAKE_BUCKET_S, MOONCAKE_CONVERSATION
from prfaas.process import interruption
from prfaas.process.child import end_with_parent
from prfaas.site.sites import Description, Role
from prfaas.stack.launch import START_ERRORS, fresh_directory, say
from prfaas.stack.stack import Stack

REPORT_FOLDER = "report"


async def run(policy: str, seconds: float, seed: int) -> int:
    """Returns the exit status of `prfaas replay`."""
    scales = Scales().with_caches(CACHE_BYTES, REUSE_CHUNK_TOKENS)
    keys = scales.keys(scheduler_keys(policy, THRESHOLD_TOKENS, CASE_SLO.ttft_s))
    directory = fresh_directory("replay")
    async with Stack(with_scheduler(description(DEPLOYMENTS["threshold"], scales), keys), directory, progress=say) as stack:
        # Ctrl-C is for the replay: it writes its report, and then the stack is stopped.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
        command = _command(stack, scales, policy, seconds, seed, directory / REPORT_FOLDER)
        process = await asyncio.create_subprocess_exec(*command, preexec_fn=end_with_parent())
        return await process.wait()


def with_scheduler(made: Description, keys: dict[str, Any]) -> Description:
    services = [msgspec.structs.replace(each, config=keys) if each.role is Role.SCHEDULER else each for each in made.services]
    return msgspec.structs.replace(made, services=tuple(services))


def _command(stack: Stack, scales: Scales, policy: str, seconds: float, seed: int, out: Path) -> list[str]:
    pages = [f"http://127.0.0.1:{process.http_port}/metrics" for process in stack.services.values()]
    options: dict[str, object] = {
        "--target": stack.gateway_url(HOME),
        "--divide-lengths": round(scales.tokens),
        "--speed": scales.time,
        "--spread-arrivals": MOONCAKE_BUCKET_S,
        "--duration": seconds,
        "--seed": seed,
        "--slo-ttft": CASE_SLO.ttft_s / scales.time,
        "--slo-tpot": round(TPOT_S * scales.tokens / scales.time, 4),
        "--title": f"Mooncake conversation, {policy}",
        "--note": f"One second here is {scales.time:g} of the paper's machines, one token {scales.tokens:g}, one byte "
        f"{scales.bytes:g}; engines are emulated, services, brokers and the link's bytes are real.",
        "--out": out,
    }
    named = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "prfaas.cli", "replay", str(MOONCAKE_CONVERSATION), *named, "--metrics", *pages]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.paper.replay", description=__doc__)
    parser.add_argument("--policy", choices=POLICIES, default="priced", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=60.0, help="of this machine; default: %(default)g")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        return interruption.run(run(arguments.policy, arguments.seconds, arguments.seed))
    except START_ERRORS as error:
        print(f"load.paper.replay: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
