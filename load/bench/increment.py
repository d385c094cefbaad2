"""Bytes that a conversation's next turn sends over the link, against the KV of what the turn has brought.

Two sites of real processes with emulated engines: the paper's 1T model with all of its tokens, its bytes and time scaled. Every
prompt is prefilled in the prefill site. Conversations take turns one at a time, so the link's own count of bytes says what each
took; it has control messages, heartbeats and probes in it. Probes may take 1 % of the link's rate, and one conversation at a time
takes less than 5 %: here they get a tenth of that. The increment is exact: full layers' KV from the first token behind the last
prompt on, in whole tokens, not blocks, and the state once.
"""

import random
from typing import Any, NamedTuple

import httpx
import msgspec

from load.emulated_stack import FAR, HOME, MODEL, engine_keys, two_sites
from prfaas.capacity.builtin import builtin_profile
from prfaas.engine.emulated_model import EMULATED_MODELS
from prfaas.kvcache.layout import KVLayout
from prfaas.site.sites import Description, Role
from prfaas.stack.launch import fresh_directory, say
from prfaas.stack.stack import Stack
from prfaas.wan.control import LinkChange

BYTE_SCALE, TIME_SCALE = 10.0, 2.0
CHUNK_TOKENS = 512
LINK_GBIT_S = 10.0
"""Rate of the link in the paper's bytes and time."""
RATE_MBIT = LINK_GBIT_S * 1e3 * TIME_SCALE / BYTE_SCALE
CONVERSATIONS, TURNS = 3, 6
FIRST_TOKENS = (8_000, 24_000)
"""Least and most tokens of a first prompt."""
MESSAGE_TOKENS = (1_000, 8_000)
ANSWER_TOKENS = 128
PROBE_SHARE = 0.001
DEADLINE_S = 120.0


class Increment(NamedTuple):
    """A turn after the first."""

    prompt_tokens: int
    new_tokens: int
    """Tokens behind the last prompt: its answer and the next message."""
    increment_bytes: int
    frame_bytes: int
    """KV in the frames that came."""
    link_bytes: int
    """All that crossed the link towards the pd site from the question to the answer's end."""


def description() -> Description:
    found = two_sites(remote_workers=1, rate_mbit=RATE_MBIT, rtt_ms=20.0 / TIME_SCALE)
    changes: dict[Role, dict[str, Any]] = {
        Role.GATEWAY: {"ttft-deadline-s": DEADLINE_S, "idle-deadline-s": DEADLINE_S},
        Role.SCHEDULER: {"policy": "remote_all", "ttft-objective-s": DEADLINE_S},
        Role.DECODE_WORKER: {"prefix-cache-mib": 512},
        Role.PREFILL_WORKER: {"prefix-cache-mib": 1024},
        Role.BANDWIDTH_PROBE: {"link-share": PROBE_SHARE},
    }
    services = []
    for service in found.services:
        config = service.config | changes.get(service.role, {})
        if "engine" in config:
            profile = config["engine"]["emulated"]["profile"]
            config["engine"] = engine_keys(profile, BYTE_SCALE, TIME_SCALE, 1.0) | {"chunk-tokens": CHUNK_TOKENS}
        services.append(msgspec.structs.replace(service, config=config))
    return msgspec.structs.replace(found, services=tuple(services))


def layout() -> KVLayout:
    """Returns that of the engines here."""
    model = EMULATED_MODELS[MODEL]
    return model.layout(builtin_profile(model.kv_profile), byte_scale=BYTE_SCALE, token_scale=1.0)


async def measure(conversations: int = CONVERSATIONS, turns: int = TURNS) -> list[Increment]:
    """Raises RuntimeError for an answer that is none, or not from the prefill site, and what Stack.start raises."""
    draw, of_model, found = random.Random(1), layout(), []
    prompts = [_tokens(draw, FIRST_TOKENS) for _ in range(conversations)]
    prefilled = [0] * conversations
    async with (
        Stack(description(), fresh_directory("bench-increment"), progress=say) as stack,
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
    ):
        for _ in range(turns):
            for index in range(conversations):
                prompt, before = prompts[index], await _link_bytes(stack)
                answer, frame_bytes = await _ask(client, stack.gateway_url(HOME), prompt)
                link_bytes = await _link_bytes(stack) - before
                # All but the last token is prefilled.
                tokens = len(prompt) - 1
                if prefilled[index]:
                    new_tokens = tokens - prefilled[index]
                    increment_bytes = of_model.total_bytes(tokens, prefilled[index])
                    turn = Increment(len(prompt), new_tokens, increment_bytes, frame_bytes, link_bytes)
                    found.append(turn)
                    say(
                        f"{turn.prompt_tokens:6} tokens, {new_tokens:5} new: {link_bytes / 1e6:6.2f} MB over the link, "
                        f"{link_bytes / increment_bytes:.3f} of the increment's {increment_bytes / 1e6:.2f} MB"
                    )
                prefilled[index] = tokens
                prompts[index] = prompt + list(answer.encode()) + _tokens(draw, MESSAGE_TOKENS)
    return found


def _tokens(draw: random.Random, between: tuple[int, int]) -> list[int]:
    """Returns printable characters, a token each."""
    return [draw.randrange(32, 127) for _ in range(draw.randint(*between))]


async def _link_bytes(stack: Stack) -> int:
    """Bytes that the link has delivered to the pd site."""
    return (await stack.sites.links[FAR, HOME].change(LinkChange())).forward_bytes


async def _ask(client: httpx.AsyncClient, url: str, prompt: list[int]) -> tuple[str, int]:
    """Returns the answer and the KV bytes in the frames that it took."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0, "ignore_eos": True}
    headers = {"x-prfaas-report": "1", "x-prfaas-ttft-deadline-s": str(DEADLINE_S)}
    response = await client.post(f"{url}/v1/completions", json=body, headers=headers)
    if response.status_code != 200:
        raise RuntimeError(f"a turn failed: {response.status_code} {response.text[:300]}")
    if (outcome := response.headers["x-prfaas-outcome"]) != "offloaded":
        raise RuntimeError(f"a turn was not offloaded but {outcome}: {response.headers['x-prfaas-reason']}")
    answer = response.json()
    return answer["choices"][0]["text"], answer["usage"]["prfaas"]["transfer"]["bytes"]


def summary(turns: list[Increment]) -> dict[str, float]:
    increment_bytes = sum(turn.increment_bytes for turn in turns)
    return {
        "bytes_over_increment": sum(turn.link_bytes for turn in turns) / increment_bytes,
        "frame_bytes_over_increment": sum(turn.frame_bytes for turn in turns) / increment_bytes,
    }
