"""SmolLM2 135M, all layers full: one answer, whatever is cached where."""

import pytest

from prfaas.stack.stack import Stack
from tests.e2e.conftest import describe
from tests.e2e.prefix_hits import assert_same_answers_whatever_is_cached

DESCRIPTION = describe("smollm2-135m", policy="remote_all", prefix_cache_mib=256)
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]


async def test_one_answer_whatever_is_cached(stack: Stack) -> None:
    await assert_same_answers_whatever_is_cached(stack)
