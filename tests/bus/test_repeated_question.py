"""Questions that are asked again while an answer is out; which answer counts, and what an error says."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from prfaas.bus.errors import BusTimeoutError, NoRespondersError, NotConnectedError
from prfaas.bus.patience import Patience
from prfaas.bus.repeated_question import RepeatedQuestion

DEADLINE_S = 30.0


class Asked:
    """Questions that were sent, to be answered by hand."""

    def __init__(self) -> None:
        self.sent: list[asyncio.Future[str]] = []

    async def __call__(self, timeout_s: float) -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.sent.append(answer)
        return await answer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0)


async def asked_again(question: RepeatedQuestion[str], asked: Asked, count: int) -> Awaitable[str | None]:
    looking = asyncio.create_task(question.again(DEADLINE_S))
    await until(lambda: len(asked.sent) == count)
    return looking


async def test_an_answer_to_an_earlier_question_counts() -> None:
    asked, patience = Asked(), Patience(2.5)
    question = RepeatedQuestion(asked, patience)
    assert await question.again(0.01) is None
    looking = await asked_again(question, asked, 2)
    asked.sent[0].set_result("late")
    assert await looking == "late"
    assert patience.silent_s > 2.5
    question.end()


async def test_an_absence_outweighs_an_answer_that_came_with_it() -> None:
    asked = Asked()
    question = RepeatedQuestion(asked, Patience(2.5))
    assert await question.again(0.01) is None
    looking = await asked_again(question, asked, 2)
    asked.sent[0].set_result("late")
    asked.sent[1].set_exception(NoRespondersError("worker"))
    with pytest.raises(NoRespondersError):
        await looking
    question.end()


async def test_a_question_that_ran_out_of_time_is_no_answer() -> None:
    asked = Asked()
    question = RepeatedQuestion(asked, Patience(2.5))
    assert await question.again(0.01) is None
    looking = await asked_again(question, asked, 2)
    asked.sent[0].set_exception(BusTimeoutError("worker", 10.0))
    await asyncio.sleep(0)
    asked.sent[1].set_result("here")
    assert await looking == "here"
    question.end()


async def test_an_error_of_the_own_connection_is_told() -> None:
    asked = Asked()
    question = RepeatedQuestion(asked, Patience(2.5))
    looking = await asked_again(question, asked, 1)
    asked.sent[0].set_exception(NotConnectedError("down"))
    with pytest.raises(NotConnectedError):
        await looking


async def test_its_end_leaves_no_question_open() -> None:
    asked = Asked()
    question = RepeatedQuestion(asked, Patience(2.5))
    assert await question.again(0.01) is None
    question.end()
    await until(lambda: asked.sent[0].cancelled())
