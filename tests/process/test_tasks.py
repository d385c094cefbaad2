"""Supervision of background tasks."""

import asyncio

from prfaas.process.tasks import Tasks


async def test_the_first_failure_is_reported_with_its_name() -> None:
    tasks = Tasks()

    async def fail(error: Exception) -> None:
        raise error

    first = ValueError("first")
    tasks.spawn("one", fail(first))
    async with asyncio.timeout(60):
        assert await tasks.failed == ("one", first)
    await asyncio.wait([tasks.spawn("two", fail(ValueError("second")))])
    assert tasks.failed.result() == ("one", first)


async def test_returning_and_cancelled_tasks_are_no_failures() -> None:
    tasks = Tasks()

    async def answer() -> int:
        return 42

    assert await tasks.spawn("answer", answer()) == 42
    forever = tasks.spawn("forever", asyncio.Event().wait())
    await asyncio.sleep(0)
    forever.cancel()
    assert await tasks.cancel_all(60) == []
    assert forever.cancelled() and not tasks.failed.done()


async def test_a_task_that_ignores_cancellation_is_named() -> None:
    tasks = Tasks()
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = tasks.spawn("stubborn", stubborn())
    await asyncio.sleep(0)
    assert await tasks.cancel_all(0.01) == ["stubborn"]
    release.set()
    async with asyncio.timeout(60):
        await task
