"""A short excerpt of the shipped Mooncake trace, as a file that every client reads alike.

`python -m load.ecosystem.excerpt FILE.jsonl`. Rows and block names are the trace's own. Longer prompts are left out, long answers
are cut, and the arrivals are spread over their 3 s buckets and sped up. Clients that synthesise a faster or shorter trace
themselves lose the blocks that prompts share.
"""

import argparse
import json
import sys
from itertools import islice
from pathlib import Path

from load.traces import MOONCAKE_BUCKET_S, MOONCAKE_CONVERSATION
from prfaas.process import interruption
from prfaas.replay.shaping import Shape, shaped
from prfaas.traces import TraceRequest, read_mooncake


def excerpt(
    *, requests: int, rate_req_s: float, max_input_tokens: int, max_output_tokens: int, seed: int = 1
) -> list[TraceRequest]:
    """Returns the first requests with prompts up to a length, the first at 0, at a mean rate."""
    shape = Shape(max_input_tokens=max_input_tokens, spread_arrivals_s=MOONCAKE_BUCKET_S, max_requests=requests, seed=seed)
    taken = list(shaped(read_mooncake(MOONCAKE_CONVERSATION), shape))
    first_s, last_s = taken[0].arrival_s, taken[-1].arrival_s
    speed = rate_req_s * (last_s - first_s) / len(taken)
    return [
        request._replace(
            arrival_s=(request.arrival_s - first_s) / speed, output_tokens=min(request.output_tokens, max_output_tokens)
        )
        for request in islice(taken, requests)
    ]


def write_mooncake(requests: list[TraceRequest], path: Path) -> None:
    """Writes rows in Mooncake's format."""
    rows = [
        {
            "timestamp": round(request.arrival_s * 1e3),
            "input_length": request.input_tokens,
            "output_length": request.output_tokens,
            "hash_ids": list(request.block_ids),
        }
        for request in requests
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.ecosystem.excerpt", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--requests", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second; default: %(default)g")
    parser.add_argument("--max-input-tokens", type=int, default=8192, help="default: %(default)s")
    parser.add_argument("--max-output-tokens", type=int, default=64, help="default: %(default)s")
    arguments = parser.parse_args()
    taken = excerpt(
        requests=arguments.requests,
        rate_req_s=arguments.rate,
        max_input_tokens=arguments.max_input_tokens,
        max_output_tokens=arguments.max_output_tokens,
    )
    write_mooncake(taken, arguments.file)
    print(f"{arguments.file}: {len(taken)} requests in {taken[-1].arrival_s:.1f} s")


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
