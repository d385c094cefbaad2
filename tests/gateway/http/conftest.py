"""A gateway whose decode worker calls tools, for every API that has them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from prfaas.contracts.to_decode import Generate
from tests.gateway.conftest import Edge, running_edge
from tests.gateway.scripted_site import Emitter


@pytest.fixture
async def calling(tmp_path: Path) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path, tool_call_parser="hermes") as edge:
        edge.site.script = call_twice
        yield edge


async def call_twice(_generate: Generate, emit: Emitter) -> None:
    await emit.started()
    for text in ("I see.", "\n<tool_", 'call>{"name": "look", "argu', 'ments": {"at": "a', ' b"}}', "</tool_call>"):
        await emit.tokens(text)
    await emit.tokens('\n<tool_call>{"name": "look", "arguments": {}}</tool_call>')
    await emit.finished(9)
