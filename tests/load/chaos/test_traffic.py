"""Verdict on one request of the mixed traffic, by what the server sends."""

import httpx
import pytest

from load.chaos.traffic import Ask, outcome

STREAM = {"content-type": "text/event-stream"}


def ask(right: str = "abcd", *, cancelled: bool = False) -> Ask:
    return Ask(kind="test", path="/v1/completions", body={}, right=right, cancelled=cancelled)


def events(*texts: str, last: str = "data: [DONE]") -> bytes:
    return b"".join(f'data: {{"choices": [{{"text": "{text}"}}]}}\n\n'.encode() for text in texts) + f"{last}\n\n".encode()


async def judged(one: Ask, response: httpx.Response) -> tuple[str, str]:
    transport = httpx.MockTransport(lambda request: response)
    async with httpx.AsyncClient(base_url="http://gateway", transport=transport) as client:
        return await outcome(client, one)


async def test_a_whole_answer_is_right_or_has_wrong_tokens() -> None:
    for text, code in (("abcd", "right"), ("abce", "wrong_tokens"), ("abc", "wrong_tokens")):
        assert (await judged(ask(), httpx.Response(200, json={"choices": [{"text": text}]})))[0] == code
        assert (await judged(ask(), httpx.Response(200, json={"choices": [{"message": {"content": text}}]})))[0] == code
        assert (await judged(ask(), httpx.Response(200, content=events(*text), headers=STREAM)))[0] == code


async def test_an_error_within_an_answer_has_its_code_unless_the_tokens_before_it_are_wrong() -> None:
    cut = 'data: {"error": {"code": "idle_deadline", "message": "m"}}'
    for texts, code in (("ab", "idle_deadline"), ("ax", "wrong_tokens")):
        assert (await judged(ask(), httpx.Response(200, content=events(*texts, last=cut), headers=STREAM)))[0] == code


async def test_a_cancelled_answer_is_judged_by_what_came() -> None:
    for texts, code in (("abcd", "cancelled"), ("axcd", "wrong_tokens")):
        response = httpx.Response(200, content=events(*texts), headers=STREAM)
        assert (await judged(ask(cancelled=True), response))[0] == code


@pytest.mark.parametrize(("status", "code"), [(400, "refused"), (404, "refused"), (429, "overloaded"), (503, "overloaded")])
async def test_a_wrong_request_must_be_refused_as_the_clients_fault(status: int, code: str) -> None:
    response = httpx.Response(status, json={"error": {"code": "overloaded", "message": "m"}})
    assert (await judged(ask(right=""), response))[0] == code
    assert (await judged(ask(right=""), httpx.Response(200, json={"choices": [{"text": "a"}]})))[0] == "200"


async def test_an_error_before_the_answer_has_its_code() -> None:
    response = httpx.Response(503, json={"error": {"code": "deadline", "message": "m"}})
    assert (await judged(ask(), response))[0] == "deadline"
