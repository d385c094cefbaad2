import asyncio
import os
import signal
from pathlib import Path

import pytest

from prfaas.process import interruption

ROOT = Path(__file__).parents[2]


def test_a_result_is_returned_and_an_error_raised() -> None:
    async def answer() -> int:
        return 3

    async def fail() -> int:
        raise ValueError("why")

    assert interruption.run(answer()) == 3
    with pytest.raises(ValueError, match="why"):
        interruption.run(fail())


def test_ctrl_c_cancels_between_two_callbacks_and_not_within_one() -> None:
    order: list[str] = []

    def callback() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        order.append("callback ended")

    async def wait() -> None:
        asyncio.get_running_loop().call_soon(callback)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            order.append("cancelled")
            raise

    with pytest.raises(KeyboardInterrupt):
        interruption.run(wait())
    assert order == ["callback ended", "cancelled"]


def test_a_cancellation_of_its_own_is_no_ctrl_c() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        interruption.run(cancelled())


def test_a_program_that_is_interrupted_says_so_and_has_a_shells_status(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert interruption.exit_status(interrupted) == interruption.INTERRUPTED
    assert capsys.readouterr().err == "interrupted.\n"
    assert interruption.exit_status(lambda: 3) == 3
    assert interruption.exit_status(lambda: None) == 0


def test_every_program_of_a_checkout_ends_with_a_sentence() -> None:
    """Children of a benchmark, which no person starts, are spared."""
    spared = {"infra/containers/healthy.py", "infra/containers/requirements.py", "infra/observability/dashboard.py"}
    spared |= {"load/bench/hostile/attacks.py", "load/bench/replay_stub.py", "load/bench/versions/side.py"}
    for path in [*ROOT.glob("infra/**/*.py"), *ROOT.glob("load/**/*.py")]:
        text = path.read_text()
        if '__name__ == "__main__"' in text and str(path.relative_to(ROOT)) not in spared:
            assert "interruption.exit_status(" in text, f"{path} shows a traceback after Ctrl-C"
            assert "asyncio.run(" not in text, f"{path} cancels in the middle of a callback"
