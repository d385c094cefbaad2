"""SmolLM2 135M, all layers full: one answer, wherever the prefill ran."""

import pytest

from prfaas.stack.stack import Stack
from tests.e2e.asking_same import assert_same_answers_in_both_sites
from tests.e2e.conftest import describe

DESCRIPTION = describe("smollm2-135m", policy="remote_all")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]


async def test_prompts_of_every_length_have_one_answer(stack: Stack) -> None:
    await assert_same_answers_in_both_sites(stack)
