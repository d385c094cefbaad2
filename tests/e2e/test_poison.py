"""Every third request is poisonous while the others stream: no process ends, and the others' tokens are right."""

from pathlib import Path

import pytest

from load.bench.poison import emulated_arm

pytestmark = pytest.mark.timeout(900)


async def test_poison_harms_nobody_else(tmp_path: Path) -> None:
    arm = await emulated_arm(12.0, tmp_path)
    assert (arm.exits, arm.wrong_tokens) == (0, 0), arm
    assert arm.undecodable > 0, "the poison of the buses arrived"
    assert len(arm.poison_results) >= 20, "and that of the clients"
    assert arm.good > arm.failed
