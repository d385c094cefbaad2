from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.types import ChatMessage, TextPart
from prfaas_gateway.prompts import INLINE_CHARS, INLINE_MESSAGES, Prompts
from tests.gateway.tiny_tokenizer import BOS, WORDS, tiny_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)


def prompts(template: str = TEMPLATE) -> Prompts:
    return Prompts(tiny_tokenizer(), template, special_tokens={"bos_token": "<s>", "eos_token": "</s>"})


def message(role: Any, content: str | list[TextPart]) -> ChatMessage:
    return ChatMessage(role=role, content=content)


async def test_text_is_tokenized_with_one_bos() -> None:
    assert await prompts().of_prompts(["hello world"]) == [[BOS, WORDS.index("hello"), WORDS.index("world")]]


async def test_token_ids_are_taken_as_they_are() -> None:
    assert await prompts().of_prompts([[3, 4], [5]]) == [[3, 4], [5]]


@pytest.mark.parametrize("bad", [-1, len(WORDS), 10**12])
async def test_token_ids_outside_of_the_vocabulary_are_refused(bad: int) -> None:
    with pytest.raises(ApiError, match="position 1") as raises:
        await prompts().of_prompts([[3, bad]])
    assert (raises.value.status, raises.value.body.param) == (400, "prompt")


async def test_text_of_tokens_that_the_model_lacks_is_refused() -> None:
    """A model of text alone has no row for the token that stands for an image, and its tokenizer has the token."""
    lacking = Prompts(tiny_tokenizer(), TEMPLATE, special_tokens={}, vocabulary_tokens=WORDS.index("assistant"))
    assert await lacking.of_prompts(["user"]) == [[BOS, WORDS.index("user")]]
    with pytest.raises(ApiError, match="Token id 11 at position 1 is not in the vocabulary of 11 tokens"):
        await lacking.of_prompts(["assistant"])


async def test_messages_are_rendered_by_the_models_template() -> None:
    messages = [
        message("developer", "x"),
        message("user", [TextPart(type="text", text="hello"), TextPart(type="text", text=" world")]),
    ]
    assert prompts().render(messages) == "<s>system: x\nuser: hello world\nA:"
    ids = await prompts().of_messages(messages)
    assert [WORDS[token_id] for token_id in ids] == ["<s>", "system", ":", "x", "user", ":", "hello", "world", "A", ":"]


def test_a_template_may_use_special_tokens_and_mark_what_the_model_wrote() -> None:
    """Templates of Zephyr and SmolLM3 do so."""
    template = "{% for m in messages %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% endfor %}"
    assert prompts(template).render([message("user", "hello"), message("user", "x")]) == "hello</s>x</s>"


def test_a_model_without_a_template_takes_no_messages() -> None:
    with pytest.raises(ApiError, match=r"has no chat template, so it takes no messages: use /v1/completions\.") as raises:
        Prompts(tiny_tokenizer(), None).render([message("user", "hello")])
    assert (raises.value.status, raises.value.body.param) == (400, "messages")


async def test_a_long_prompt_is_tokenized_off_the_event_loop() -> None:
    text = "hello " * INLINE_CHARS
    with ThreadPoolExecutor(1) as executor:
        assert await Prompts(tiny_tokenizer(), TEMPLATE, executor).of_prompts([text]) == await prompts().of_prompts([text])


async def test_many_messages_are_rendered_off_the_event_loop() -> None:
    messages = [message("user", "hello")] * (INLINE_MESSAGES + 1)
    assert len(await prompts().of_messages(messages)) == 1 + 3 * len(messages) + 2


def test_a_template_may_refuse_messages() -> None:
    refusing = prompts("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ApiError, match="roles must alternate") as raises:
        refusing.render([message("user", "hello")])
    assert (raises.value.status, raises.value.body.param) == (400, "messages")


@pytest.mark.parametrize("template", ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ messages[0].pop('role') }}"])
def test_a_template_is_confined(template: str) -> None:
    with pytest.raises(ApiError):
        prompts(template).render([message("user", "hello")])


def test_tojson_writes_plain_json() -> None:
    assert prompts("{{ messages[0] | tojson }}").render([message("user", "<ü>")]) == '{"role": "user", "content": "<ü>"}'
