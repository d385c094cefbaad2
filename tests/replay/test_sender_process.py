import asyncio

from prfaas.replay.sender_process import tell_until_over


async def test_work_that_ends_while_something_is_told_is_told_of_once_more() -> None:
    finish = asyncio.Event()

    async def work() -> None:
        await finish.wait()

    told: list[bool] = []

    async def tell(over: bool) -> None:
        told.append(over)
        finish.set()
        await asyncio.wait([working])

    working = asyncio.create_task(work())
    await tell_until_over(working, tell)
    assert told == [False, True]


async def test_work_that_fails_is_over_too() -> None:
    async def work() -> None:
        raise ValueError

    told: list[bool] = []

    async def tell(over: bool) -> None:
        told.append(over)

    working = asyncio.create_task(work())
    await tell_until_over(working, tell)
    assert told == [True] and isinstance(working.exception(), ValueError)
