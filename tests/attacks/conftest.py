from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from prfaas.stack.running_sites import RunningSites
from tests.attacks.who_can import running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sites(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningSites]:
    """The servers of three sites, for one module's tests."""
    directory: Path = tmp_path_factory.mktemp("sites")
    async with running(directory) as sites:
        yield sites
