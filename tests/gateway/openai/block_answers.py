"""Answers with texts and calls in any order, as events that cut them up in any way; for APIs that tell of them block by block."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import Sampling
from prfaas.contracts.to_gateway import Finished, GenerateEvent, Started, Tokens
from prfaas_gateway.dialect import Asked
from prfaas_gateway.openai.calls.families import FAMILIES
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.openai.tool_use import ToolUse
from prfaas_gateway.openai.types import ChatRequest
from tests.gateway.openai.calls.reading import cut

USE = ToolUse(family=FAMILIES["hermes"], functions=("look",), parallel=True, form=None)


def asked(request: ChatRequest, use: ToolUse | None = None, *, report: bool = False) -> Asked:
    return Asked(
        request=request,
        sampling=Sampling(max_tokens=9),
        tool_use=use,
        request_id="r",
        created=1,
        model="m",
        system_fingerprint="fp_1",
        report=report,
    )


def progress() -> Progress:
    return Progress(prompt_tokens=5)


def events_of(parts: Sequence[str], rest: str = "", reason: str = "stop", stop: str = "") -> list[GenerateEvent]:
    """An answer to a prompt of 5 tokens, 2 of which were cached."""
    begun = Started(
        request_id="r", sequence=0, prefill_site="east", outcome=Outcome.OFFLOADED, reason="long enough", cached_tokens=2
    )
    said = [Tokens(request_id="r", sequence=at, text=text, token_ids=(7,)) for at, text in enumerate(parts, 1)]
    done = Finished(
        request_id="r", sequence=len(parts) + 1, finish_reason=reason, text=rest, stop=stop,
        completion_tokens=len(parts), transfer=TransferReport(bytes=1000, frames=3, attempts=1),
    )  # fmt: skip
    return [begun, *said, done]


def call_text(arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': 'look', 'arguments': arguments})}\n</tool_call>"


_texts = st.text("ab \n<{é", max_size=12)
_calls = st.dictionaries(
    st.text("xy", min_size=1, max_size=2), st.none() | st.integers() | st.text('a"\\é', max_size=4), max_size=2
)
_written = st.lists(_texts | _calls.map(call_text) | st.just('<tool_call>{"name": "look", "arguments": {"a": [1,'), max_size=5)
answers = st.builds(
    lambda written, places, reason, held: events_of(*_held(cut("".join(written), places), held), reason=reason),
    _written, st.lists(st.integers(0, 200), max_size=8), st.sampled_from(["stop", "length"]), st.booleans(),
)  # fmt: skip
"""Events of answers of which some call, some of them in vain, some cut off."""


def _held(parts: list[str], held: bool) -> tuple[list[str], str]:
    """The parts, with the last one as what was held back until the end."""
    return (parts[:-1], parts[-1]) if held and parts else (parts, "")


uses = st.sampled_from([None, USE, ToolUse(family=FAMILIES["hermes"], functions=("look",), parallel=False, form=None)])
