"""Requests beside and under faults, each compared with the right answer."""

import random
import time
from collections.abc import Sequence

from load.emulated_stack import MODEL, right_answer
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Client, Target
from prfaas.replay.record import Record
from prfaas.site.sites import Description

PROMPT_TOKENS, OUTPUT_TOKENS = 600, 16
TTFT_DEADLINE_S = 30.0
TIMEOUT_S = 75.0
"""Time after which a request counts as hanging: its deadline, an idle deadline of 30 s in its answer, and slack."""


class Asked:
    """One request and what became of it."""

    def __init__(self, prompt: Sequence[int], record: Record, right: str, took_s: float) -> None:
        self.prompt = prompt
        self.record = record
        self.right = right
        self.took_s = took_s

    @property
    def wrong(self) -> bool:
        """True if it was answered in full with other tokens than the right ones."""
        return not self.record.error and self.record.text != self.right

    @property
    def wrong_so_far(self) -> bool:
        """True if the tokens that came before an error are no beginning of the right answer."""
        return bool(self.record.error) and not self.right.startswith(self.record.text)

    @property
    def hung(self) -> bool:
        return self.record.error == "timeout"


class Asking:
    """Asks one gateway for greedy answers of emulated engines, prompts from a seed."""

    def __init__(self, description: Description, url: str, seed: int) -> None:
        self._description = description
        self._random = random.Random(seed)
        self._started_s = time.monotonic()
        self._target = Target(url=url, model=MODEL, timeout_s=TIMEOUT_S, ttft_deadline_s=TTFT_DEADLINE_S)

    def new_prompt(self, tokens: int = PROMPT_TOKENS) -> list[int]:
        return list(self._random.randbytes(tokens))

    async def ask(self, prompt: Sequence[int], output_tokens: int = OUTPUT_TOKENS) -> Asked:
        """Returns when the request is over, however it ended."""
        async with Client(self._target, self._started_s) as client:
            record = Record(arrival=Arrival(client.now_s(), len(prompt), output_tokens))
            await client.ask(record, list(prompt))
            took_s = client.now_s() - record.arrival.arrival_s
        return Asked(prompt, record, right_answer(self._description, prompt, output_tokens), took_s)
