"""Eight mixed requests at once, in float32: in bf16 a batch of another composition differs in its last bits."""

import pytest

from prfaas.stack.stack import Stack
from tests.e2e.asking_same import together
from tests.e2e.conftest import describe

DESCRIPTION = describe("gemma-3-270m", policy="remote_all", dtype="float32")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

LENGTHS = (1, 5, 40, 100, 200, 300, 513, 700)


async def test_eight_requests_at_once_have_the_same_tokens(stack: Stack) -> None:
    remote, local = await together(stack, "remote_all", LENGTHS), await together(stack, "local_only", LENGTHS)
    for length, there, here in zip(LENGTHS, remote, local, strict=True):
        assert (there.prefill_site, here.prefill_site) == ("remote", "local")
        assert there.tokens == here.tokens, f"a prompt of {length} tokens"
