import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_gateway import Failed, Finished, GenerateEvent, Started, TokenDetail, TokenLogprob, Tokens
from prfaas_gateway.openai import encoded_list
from prfaas_gateway.openai.answers import AnswerHead, StreamedAnswer, UsageOptions, WholeAnswer
from prfaas_gateway.openai.progress import EventGapError, Progress
from prfaas_gateway.openai.shapes import ChatShape, CompletionShape, Shape

REPORT = TransferReport(bytes=1000, frames=3, attempts=1, duration_s=0.25)


def started(sequence: int = 0) -> Started:
    return Started(
        request_id="r", sequence=sequence, prefill_site="east", outcome=Outcome.OFFLOADED, reason="long enough", cached_tokens=2
    )


def tokens(sequence: int, text: str, count: int = 1, details: tuple[TokenDetail, ...] = ()) -> Tokens:
    return Tokens(request_id="r", sequence=sequence, text=text, token_ids=tuple(range(count)), details=details)


def finished(sequence: int, completion_tokens: int, text: str = "", reason: str = "stop") -> Finished:
    return Finished(
        request_id="r", sequence=sequence, finish_reason=reason, text=text, completion_tokens=completion_tokens, transfer=REPORT
    )


def detail(token: str, logprob: float, *top: tuple[str, float], text_offset: int = 0) -> TokenDetail:
    chosen = TokenLogprob(token, logprob, tuple(token.encode()))
    return TokenDetail(chosen=chosen, top=tuple(TokenLogprob(*item) for item in top), text_offset=text_offset)


def head(shape: Shape) -> AnswerHead:
    return AnswerHead(request_id="r", created=1, model="m", system_fingerprint="fp_1", shape=shape)


def stream(shape: Shape, events: list[GenerateEvent], options: UsageOptions = UsageOptions()) -> list[Any]:  # noqa: B008
    """The chunks as a client reads them; a stream that ends well has `[DONE]` last."""
    answer = StreamedAnswer(head=head(shape), progress=Progress(prompt_tokens=5), options=options)
    text = b"".join(answer.handle(event) for event in events).decode()
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [block[6:] if block == "data: [DONE]" else json.loads(block[6:]) for block in blocks]


def whole(shape: Shape, events: list[GenerateEvent], *, report: bool = False) -> Any:
    answer = WholeAnswer(head=head(shape), progress=Progress(prompt_tokens=5), report=report)
    for event in events:
        answer.handle(event)
    return json.loads(b"".join(answer.body()))


HELLO: list[GenerateEvent] = [started(), tokens(1, "hel"), tokens(2, ""), tokens(3, "l"), finished(4, 4, "o")]
BASE = {"id": "chatcmpl-r", "created": 1, "model": "m", "system_fingerprint": "fp_1"}
USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 2}}


def chat_chunk(delta: dict[str, str], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"delta": delta, "index": 0, "logprobs": None, "finish_reason": finish_reason}
    return {**BASE, "object": "chat.completion.chunk", "choices": [choice], **more}


def test_chat_stream() -> None:
    assert stream(ChatShape(), HELLO) == [
        chat_chunk({"role": "assistant", "content": ""}),
        chat_chunk({"content": "hel"}),
        chat_chunk({"content": "l"}),
        chat_chunk({"content": "o"}),
        chat_chunk({}, "stop"),
        "[DONE]",
    ]


def test_include_usage_adds_a_last_chunk_and_nulls_before_it() -> None:
    chunks = stream(ChatShape(), HELLO, UsageOptions(last=True))
    assert [chunk["usage"] for chunk in chunks[:-2]] == [None] * 5
    assert chunks[-2] == {**BASE, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}


def test_continuous_usage_counts_as_it_goes() -> None:
    chunks = stream(ChatShape(), HELLO, UsageOptions(last=True, continuous=True))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks[:-1]] == [0, 1, 3, 4, 4, 4]


def test_the_report_is_in_the_last_usage_only() -> None:
    chunks = stream(ChatShape(), HELLO, UsageOptions(last=True, continuous=True, report=True))
    *earlier, last = [chunk["usage"] for chunk in chunks[:-1]]
    expected = {"outcome": "offloaded", "prefill_site": "east", "reason": "long enough"}
    transfer = {
        "bytes": 1000, "saved_bytes": 0, "reused_tokens": 0, "frames": 3, "lossy_frames": 0, "attempts": 1,
        "duration_s": 0.25, "residual_s": 0.0, "prefill_s": 0.0, "queue_s": 0.0,
    }  # fmt: skip
    assert last["prfaas"] == {**expected, "transfer": transfer, "moves": 0, "detours": {}}
    assert not any("prfaas" in usage for usage in earlier)
    assert whole(ChatShape(), HELLO, report=True)["usage"]["prfaas"] == last["prfaas"]
    assert "prfaas" not in whole(ChatShape(), HELLO)["usage"]


def test_completion_stream() -> None:
    chunks = stream(CompletionShape(), HELLO)
    assert [chunk["choices"][0] for chunk in chunks[:-1]] == [
        {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
        for text, reason in (("hel", None), ("l", None), ("o", None), ("", "stop"))
    ]
    assert {chunk["object"] for chunk in chunks[:-1]} == {"text_completion"}
    assert "usage" not in chunks[0]


def test_whole_bodies() -> None:
    message = {"role": "assistant", "content": "hello", "refusal": None}
    assert whole(ChatShape(), HELLO) == {
        **BASE,
        "object": "chat.completion",
        "choices": [{"message": message, "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    body = whole(CompletionShape(), HELLO)
    assert body["id"] == "cmpl-r"
    assert body["choices"] == [{"text": "hello", "index": 0, "logprobs": None, "finish_reason": "stop"}]


LOGGED: list[GenerateEvent] = [
    started(),
    tokens(1, "", details=(detail("he", -0.1, ("he", -0.1), ("she", -2.0)),)),
    tokens(2, "hello", details=(detail("llo", -0.5, ("y", -0.4), text_offset=2),)),
    finished(3, 2),
]


def test_completion_logprobs() -> None:
    expected = {
        "tokens": ["he", "llo"],
        "token_logprobs": [-0.1, -0.5],
        "top_logprobs": [{"he": -0.1, "she": -2.0}, {"y": -0.4, "llo": -0.5}],
        "text_offset": [0, 2],
    }
    assert whole(CompletionShape(), LOGGED)["choices"][0]["logprobs"] == expected
    parts = [chunk["choices"][0]["logprobs"] for chunk in stream(CompletionShape(), LOGGED)[:-1]]
    assert parts.pop() is None
    assert {key: parts[0][key] + parts[1][key] for key in expected} == expected


def test_completion_logprobs_without_alternatives() -> None:
    events: list[GenerateEvent] = [started(), tokens(1, "a", details=(detail("a", -0.25),)), finished(2, 1)]
    assert whole(CompletionShape(), events)["choices"][0]["logprobs"]["top_logprobs"] is None


LETTER, HALF, BYTE, NOTHING, NOTHING_TOO = (
    TokenLogprob("A", -0.5, (65,), 10),
    TokenLogprob("\\xf0\\x9f", -0.6, (0xF0, 0x9F), 11),
    TokenLogprob("A", -0.7, (65,), 12),
    TokenLogprob("", -0.8, (), 13),
    TokenLogprob("", -0.9, (), 14),
)
"""A letter and the byte token of that letter, part of a character, and two ids that only the model has."""


@pytest.mark.parametrize(
    ("chosen", "tops"),
    [
        (LETTER, {"A": -0.5, "bytes:\\xf0\\x9f": -0.6, "token_id:12": -0.7, "": -0.8, "token_id:14": -0.9}),
        (BYTE, {"token_id:10": -0.5, "bytes:\\xf0\\x9f": -0.6, "A": -0.7, "": -0.8, "token_id:14": -0.9}),
        (NOTHING_TOO, {"A": -0.5, "bytes:\\xf0\\x9f": -0.6, "token_id:12": -0.7, "token_id:13": -0.8, "": -0.9}),
    ],
)
def test_tokens_of_one_text_do_not_overwrite_one_another(chosen: TokenLogprob, tops: dict[str, float]) -> None:
    everything = (LETTER, HALF, BYTE, NOTHING, NOTHING_TOO)
    events: list[GenerateEvent] = [
        started(),
        tokens(1, "A", details=(TokenDetail(chosen=chosen, top=everything),)),
        finished(2, 1),
    ]
    logprobs = whole(CompletionShape(), events)["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"] == [tops]
    assert logprobs["top_logprobs"][0][logprobs["tokens"][0]] == logprobs["token_logprobs"][0]


def test_a_part_of_a_character_is_spelled_as_openai_spells_it() -> None:
    events: list[GenerateEvent] = [started(), tokens(1, "", details=(TokenDetail(chosen=HALF, top=(NOTHING,)),)), finished(2, 1)]
    assert whole(CompletionShape(), events)["choices"][0]["logprobs"]["tokens"] == ["bytes:\\xf0\\x9f"]
    (content,) = whole(ChatShape(), events)["choices"][0]["logprobs"]["content"]
    assert (content["token"], content["bytes"]) == ("\\xf0\\x9f", [0xF0, 0x9F])
    assert content["top_logprobs"] == [{"token": "", "logprob": -0.8, "bytes": None}]


def test_chat_logprobs() -> None:
    logprobs = whole(ChatShape(), LOGGED)["choices"][0]["logprobs"]
    assert logprobs["refusal"] is None
    assert logprobs["content"][1] == {
        "token": "llo",
        "logprob": -0.5,
        "bytes": [108, 108, 111],
        "top_logprobs": [{"token": "y", "logprob": -0.4, "bytes": None}],
    }
    # Text of the first token is not certain yet, but its log-probability is.
    assert stream(ChatShape(), LOGGED)[1]["choices"][0]["logprobs"]["content"][0]["token"] == "he"


token_texts = st.text(max_size=4) | st.sampled_from(["\0", '"', "\\", "é", "\ud7ff"])
token_logprobs = st.builds(
    TokenLogprob,
    token_texts,
    st.floats(-100, 0),
    st.lists(st.integers(0, 255), max_size=4).map(tuple),
    st.integers(0, 5),
)
token_details = st.builds(
    TokenDetail, chosen=token_logprobs, top=st.lists(token_logprobs, max_size=3).map(tuple), text_offset=st.integers(0, 99)
)


@given(st.lists(st.tuples(token_texts, st.lists(token_details, max_size=3).map(tuple)), max_size=5), st.integers(1, 200))
def test_a_body_in_pieces_has_the_bytes_of_one_encode(news: list[tuple[str, tuple[TokenDetail, ...]]], piece_bytes: int) -> None:
    events: list[GenerateEvent] = [started()]
    events += [tokens(index + 1, text, details=details) for index, (text, details) in enumerate(news)]
    events.append(finished(len(events), len(news)))
    for shape in (ChatShape(), CompletionShape()):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(encoded_list, "PIECE_BYTES", piece_bytes)
            answer = WholeAnswer(head=head(shape), progress=Progress(prompt_tokens=5))
            for event in events:
                answer.handle(event)
            body = b"".join(answer.body())
        plain = msgspec.json.decode(body)
        assert msgspec.json.encode(plain) == body
        logprobs = plain["choices"][0]["logprobs"]
        parts = [chunk["choices"][0]["logprobs"] for chunk in stream(shape, events)[:-1]]
        parts = [part for part in parts if part is not None]
        assert (logprobs is None) == (not parts)
        for key in ("content", "tokens", "token_logprobs", "text_offset"):
            if logprobs is not None and key in logprobs:
                assert logprobs[key] == [entry for part in parts for entry in part[key]]


def test_no_piece_of_a_long_answer_is_long() -> None:
    many = tuple(detail(f"t{number}", -0.5, *((f"u{other}", -1.0) for other in range(20))) for number in range(800))
    for shape in (ChatShape(), CompletionShape()):
        answer = WholeAnswer(head=head(shape), progress=Progress(prompt_tokens=5))
        for event in (started(), tokens(1, "a", details=many), finished(2, 1)):
            answer.handle(event)
        sizes = list(map(len, answer.body()))
        assert sum(sizes) > 2 * encoded_list.PIECE_BYTES
        assert max(sizes) < 1.1 * encoded_list.PIECE_BYTES


@pytest.mark.parametrize("events", [
    [started(1)],
    [started(), tokens(2, "a")],
    [started(), tokens(1, "a"), tokens(1, "a")],
    [started(), started(1)],
    [tokens(0, "a")],
    [finished(0, 0)],
    [started(), finished(1, 0), tokens(2, "a")],
    [Failed(request_id="r", sequence=0, code="x", message="y"), started(1)],
])  # fmt: skip
def test_events_out_of_order_are_an_error(events: list[GenerateEvent]) -> None:
    for answer in (
        StreamedAnswer(head=head(ChatShape()), progress=Progress(prompt_tokens=5), options=UsageOptions()),
        WholeAnswer(head=head(ChatShape()), progress=Progress(prompt_tokens=5)),
    ):
        *fine, bad = events
        for event in fine:
            answer.handle(event)
        with pytest.raises(EventGapError):
            answer.handle(bad)


def test_a_failure_ends_the_answer_without_done() -> None:
    failed = Failed(request_id="r", sequence=2, code="engine", message="out of memory")
    chunks = stream(ChatShape(), [started(), tokens(1, "a"), failed])
    assert chunks == [chat_chunk({"role": "assistant", "content": ""}), chat_chunk({"content": "a"})]


@given(st.lists(st.text(max_size=5), max_size=12), st.text(max_size=5), st.data())
def test_stream_and_body_carry_the_same_text_and_usage(texts: list[str], held_back: str, data: st.DataObject) -> None:
    counts = [data.draw(st.integers(1, 3)) for _ in texts]
    events: list[GenerateEvent] = [started()]
    events += [tokens(index + 1, text, count) for index, (text, count) in enumerate(zip(texts, counts, strict=True))]
    events.append(finished(len(events), sum(counts), held_back))
    for shape in (ChatShape(), CompletionShape()):
        *chunks, usage, done = stream(shape, events, UsageOptions(last=True))
        choices = [chunk["choices"][0] for chunk in chunks]
        parts = [choice["delta"].get("content", "") if "delta" in choice else choice["text"] for choice in choices]
        body = whole(shape, events)
        choice = body["choices"][0]
        assert done == "[DONE]"
        assert (
            "".join(parts)
            == "".join(texts) + held_back
            == (choice["message"]["content"] if "message" in choice else choice["text"])
        )
        assert usage["usage"] == body["usage"]
        assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]


@given(st.lists(st.sampled_from(["s", "t", "f", "x"]), max_size=8), st.data())
def test_no_lost_or_repeated_event_passes(kinds: list[str], data: st.DataObject) -> None:
    """Whatever comes: an accepted history is one Started, then tokens, then at most one end, numbered without gaps."""
    make: dict[str, Callable[[int], GenerateEvent]] = {
        "s": started, "t": lambda n: tokens(n, "a"), "f": lambda n: finished(n, 1),
        "x": lambda n: Failed(request_id="r", sequence=n, code="c", message="m"),
    }  # fmt: skip
    progress = Progress(prompt_tokens=1)
    accepted: list[str] = []
    for kind in kinds:
        sequence = data.draw(st.integers(0, len(accepted) + 1))
        try:
            progress.accept(make[kind](sequence))
        except EventGapError:
            break
        assert sequence == len(accepted)
        accepted.append(kind)
    history = "".join(accepted)
    assert history.count("s") <= 1
    assert all(history.index(kind) == len(history) - 1 for kind in "fx" if kind in history)
    assert history[:1] in ("", "s", "x")
