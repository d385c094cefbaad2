"""Several choices of one request: their seeds, their usage, and their spelling."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.contracts.to_gateway import GenerateEvent, TokenDetail
from prfaas_gateway.openai.answers import StreamedAnswer, UsageOptions, WholeAnswer, best_of_each, whole_body
from prfaas_gateway.openai.choices import Choices, check_choices, seed_of
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.openai.shapes import ChatShape, CompletionShape, Shape
from prfaas_gateway.openai.types import CompletionRequest
from tests.gateway.openai.test_answers import detail, finished, head, started, tokens


def events(text: str, *details: TokenDetail) -> list[GenerateEvent]:
    told = [tokens(number, each.chosen.token, details=(each,)) for number, each in enumerate(details, 1)]
    return [started(), *(told or [tokens(1, text)]), finished(1 + len(told or [1]), 2)]


def choices_of(count: int, per_prompt: int) -> Choices:
    return Choices([Progress(prompt_tokens=5 + index // per_prompt) for index in range(count)], per_prompt)


@given(st.integers(-(2**63), 2**63 - 1))
def test_each_choice_has_a_seed_of_its_own_and_the_first_the_requests(seed: int) -> None:
    seeds = [seed_of(seed, choice) for choice in range(128)]
    assert seeds[0] == seed
    assert len(set(seeds)) == 128
    assert all(each is not None and -(2**63) <= each < 2**64 for each in seeds), "what MessagePack can write"


def test_seeds_of_choices_stay_what_they_are() -> None:
    """An answer must be reproducible with the next version too."""
    assert seed_of(7, 1) == 7808012576858389467
    assert seed_of(None, 1) is None


@pytest.mark.parametrize(("fields", "param"), [
    ({"prompt": "x", "n": 9}, "n"), ({"prompt": ["x"] * 9}, "prompt"), ({"prompt": ["x"] * 3, "n": 3}, "n"),
    ({"prompt": "x", "best_of": 9}, "best_of"),
])  # fmt: skip
def test_more_choices_than_are_allowed_are_refused(fields: dict[str, Any], param: str) -> None:
    request = CompletionRequest(model="m", **fields)
    check_choices(request, 9)
    with pytest.raises(ApiError) as raises:
        check_choices(request, 8)
    assert (raises.value.status, raises.value.body.param) == (400, param)
    assert "9 answers" in raises.value.body.message and "at most 8" in raises.value.body.message


def test_usage_counts_each_prompt_once_and_all_answers() -> None:
    choices = choices_of(4, per_prompt=2)
    for progress in choices.progresses:
        for event in events("x"):
            progress.accept(event)
    usage = choices.usage(report=True)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5 + 6, 4 * 2, 19)
    assert usage.prompt_tokens_details.cached_tokens == 2 * 2
    assert choices.over


def stream(shape: Shape, options: UsageOptions) -> list[Any]:
    """Chunks of two choices whose events alternate."""
    choices = choices_of(2, per_prompt=2)
    answers = [
        StreamedAnswer(head=head(shape), progress=progress, options=options, index=index, choices=choices)
        for index, progress in enumerate(choices.progresses)
    ]
    steps = zip(events("a"), events("b"), strict=True)
    data = b"".join(answer.handle(event) for step in steps for answer, event in zip(answers, step, strict=True))
    blocks = data.decode().split("\n\n")[:-1]
    return [block if block == "data: [DONE]" else json.loads(block[6:]) for block in blocks]


@pytest.mark.parametrize("shape", [ChatShape(), CompletionShape()])
def test_chunks_name_their_choice_and_the_stream_ends_once(shape: Shape) -> None:
    *chunks, usage, done = stream(shape, UsageOptions(last=True))
    assert done == "data: [DONE]" and done not in chunks
    assert (usage["choices"], usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == ([], 5, 4)
    by_choice: dict[int, list[Any]] = {0: [], 1: []}
    for chunk in chunks:
        assert chunk["usage"] is None
        (choice,) = chunk["choices"]
        by_choice[choice["index"]].append(choice)
    for told in by_choice.values():
        assert [choice["finish_reason"] for choice in told].count("stop") == 1
        assert told[-1]["finish_reason"] == "stop"


def whole(shape: Shape, *told: list[GenerateEvent], kept: int | None = None, shows_logprobs: bool = True) -> Any:
    choices = choices_of(len(told), per_prompt=len(told))
    answers = [WholeAnswer(head=head(shape), progress=progress, shows_logprobs=shows_logprobs) for progress in choices.progresses]
    for answer, each in zip(answers, told, strict=True):
        for event in each:
            answer.handle(event)
    chosen = answers if kept is None else best_of_each(answers, per_prompt=len(told), kept=kept)
    return json.loads(b"".join(whole_body(chosen, choices)))


def test_a_whole_body_has_all_choices_with_their_log_probabilities() -> None:
    body = whole(
        CompletionShape(), events("", detail("a", -1.0, ("a", -1.0))), events("", detail("b", -2.0, ("c", -0.5))), events("c")
    )
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(0, "a"), (1, "b"), (2, "c")]
    assert [choice["logprobs"] and choice["logprobs"]["top_logprobs"] for choice in body["choices"]] == [
        [{"a": -1.0}], [{"c": -0.5, "b": -2.0}], None,
    ]  # fmt: skip
    chat = whole(ChatShape(), events("", detail("a", -1.0)), events("", detail("b", -2.0)))
    assert [choice["logprobs"]["content"][0]["token"] for choice in chat["choices"]] == ["a", "b"]


def test_the_best_have_the_likeliest_tokens_by_their_mean() -> None:
    long = events("", detail("l", -0.4), detail("o", -0.6))
    body = whole(
        CompletionShape(), events("", detail("x", -0.7)), long, events("", detail("y", -0.5)), kept=2, shows_logprobs=False
    )
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(0, "lo"), (1, "y")], "-0.5 both: the first"
    assert [choice["logprobs"] for choice in body["choices"]] == [None, None]
    assert body["usage"]["completion_tokens"] == 6, "those that were not chosen count"


def test_an_empty_answer_is_the_worst() -> None:
    answer = WholeAnswer(head=head(CompletionShape()), progress=Progress(prompt_tokens=1))
    assert answer.score == -math.inf
