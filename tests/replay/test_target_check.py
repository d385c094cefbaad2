"""A server is asked to find out what it takes."""

from pathlib import Path

import pytest
from aiohttp import web
from tokenizers import Tokenizer, models, pre_tokenizers

from prfaas.replay.client import Target
from prfaas.replay.target_check import Checked, TargetError, check_target
from prfaas.replay.words import LETTERS
from tests.replay.stub_server import Stub, stub_server


async def check(stub: Stub, kind: str = "auto", *, tokenizer: Path | None = None, **keys: object) -> Checked:
    target = Target(**({"url": stub.url, "model": "", "timeout_s": 10.0} | keys))  # type: ignore[arg-type]
    return await check_target(target, kind, tokenizer, has_lengths=True)


async def test_a_byte_vocabulary_is_found_and_the_model_too() -> None:
    async with stub_server() as stub:
        found = await check(stub)
    assert (found.target.model, found.max_model_tokens, found.prompts.vocabulary) == ("m", 10_000, (0, 256))
    assert "counted 16 at the server" in found.prompts.checked


async def test_a_large_vocabulary_is_used_past_its_special_tokens() -> None:
    async with stub_server() as stub:
        stub.vocabulary = 50_000
        assert (await check(stub)).prompts.vocabulary == (1000, 32_000)


async def refuse_ids(body: dict[str, object]) -> web.StreamResponse | None:
    if isinstance(body.get("prompt"), list):
        return web.json_response({"error": {"message": "text only"}}, status=400)
    return None


async def test_a_server_without_token_ids_gets_text_of_known_length() -> None:
    async with stub_server() as stub:
        stub.answer = refuse_ids
        found = await check(stub)
        with pytest.raises(TargetError, match="takes no prompts of token ids"):
            await check(stub, "tokens")
    assert (found.prompts.kind, found.prompts.words, found.prompts.overhead_tokens) == ("text", LETTERS, 0)


async def test_what_a_chat_template_adds_is_counted() -> None:
    async with stub_server() as stub:
        found = await check(stub, chat=True)
    assert (found.prompts.words, found.prompts.overhead_tokens) == (LETTERS, 7)


async def test_a_server_that_does_not_count_needs_a_tokenizer(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({letter: place for place, letter in enumerate(LETTERS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    async with stub_server() as stub:
        stub.tells_usage = False
        with pytest.raises(TargetError, match="--tokenizer"):
            await check(stub, "text")
        (tmp_path / "broken.json").write_text("{")
        with pytest.raises(TargetError, match=r"broken\.json cannot be read"):
            await check(stub, "text", tokenizer=tmp_path / "broken.json")


async def test_a_field_that_the_server_does_not_know_is_left_out() -> None:
    async def strict(body: dict[str, object]) -> web.StreamResponse | None:
        if "ignore_eos" in body:
            return web.json_response({"error": {"message": "unknown field ignore_eos"}}, status=400)
        return None

    async with stub_server() as stub:
        stub.answer = strict
        found = await check(stub)
    assert not found.target.ignore_eos


async def refuse_all(body: dict[str, object]) -> web.StreamResponse | None:
    return web.json_response({"error": {"message": "no"}}, status=400)


async def no_such_page(body: dict[str, object]) -> web.StreamResponse | None:
    return web.Response(status=404, text="not here")


@pytest.mark.parametrize(
    ("answer", "keys", "says"),
    [
        (refuse_all, {}, "refuses a plain prompt: no"),
        (no_such_page, {}, "does not answer a prompt: http_404"),
        (None, {"model": "other"}, "no model 'other'; the server has m"),
        (None, {"url": "ftp://x"}, "no URL of a server"),
        (None, {"url": "nonsense"}, "no URL of a server"),
        (None, {"url": "http://127.0.0.1:1"}, "cannot be reached"),
    ],
)
async def test_what_does_not_work_is_a_sentence(answer: object, keys: dict[str, str], says: str) -> None:
    async with stub_server() as stub:
        stub.answer = answer  # type: ignore[assignment]
        with pytest.raises(TargetError, match=says):
            await check(stub, **keys)  # type: ignore[arg-type]


async def test_of_several_models_one_must_be_chosen() -> None:
    async with stub_server() as stub:
        stub.models = ["a", "b"]
        with pytest.raises(TargetError, match="a, b: choose one with --model"):
            await check(stub)
        assert (await check(stub, model="b")).target.model == "b"
