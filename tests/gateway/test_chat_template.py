"""Chats rendered with tools and calls, as transformers renders them."""

import json
from typing import Any

import pytest

from prfaas.engine.emulated_model import CHAT_TEMPLATE
from prfaas_gateway.chat_template import ChatTemplate, Rendering
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.types import ChatRequest
from prfaas_gateway.openai.validation import parse_chat

TEMPLATE = """\
{{ bos_token }}{%- if tools %}
{% for tool in tools %}{{ tool | tojson }}
{{ tool | tojson(indent=2) }}
{% endfor %}
{%- endif %}
{% for m in messages %}
<|{{ m.role }}|>{{ m.content if not trims else m.content | trim }}
{%- for call in m.tool_calls or [] %}
<tool_call>{{ call.id }} {{ call.function.name }} {{ call.function.arguments | tojson }}
{%- for name, value in call.function.arguments.items() %} {{ name }}={{ value }}{% endfor %}</tool_call>
{%- endfor %}
{%- if m.tool_call_id is defined %} for {{ m.tool_call_id }}{% endif %}<|end|>
{% endfor %}
{% if add_generation_prompt %}<|assistant|>
{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}
"""
TOOL = {"type": "function", "function": {"name": "f", "description": "größer <b>", "parameters": {"type": "object", "x": None}}}
CALL = {"id": "abc", "type": "function", "function": {"name": "f", "arguments": '{"a": 1, "b": null}'}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "42", "tool_call_id": "abc"},
    {"role": "assistant", "content": "It is 42 "},
]
WISHES: list[dict[str, Any]] = [
    {},
    {"tools": [TOOL]},
    {"tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}},
    {"add_generation_prompt": False},
    {"add_generation_prompt": False, "continue_final_message": True},
    {"add_generation_prompt": False, "continue_final_message": True, "chat_template_kwargs": {"trims": True}},
]


def request(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode())


def rendered(asked: ChatRequest, source: str = TEMPLATE) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(asked.messages, Rendering.of(asked))


@pytest.mark.parametrize("wishes", WISHES)
def test_a_chat_is_rendered_as_transformers_renders_it(wishes: dict[str, Any]) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    told = json.loads(json.dumps(MESSAGES))
    told[2]["tool_calls"][0]["function"]["arguments"] = json.loads(CALL["function"]["arguments"])  # type: ignore[index]
    found: Any = render_jinja_template(
        [told],
        tools=wishes.get("tools"),
        chat_template=TEMPLATE,
        add_generation_prompt=wishes.get("add_generation_prompt", True),
        continue_final_message=wishes.get("continue_final_message", False),
        bos_token="<s>",
        **wishes.get("chat_template_kwargs", {}),
    )
    assert rendered(request(**wishes)) == found[0][0]


def test_arguments_that_are_no_object_stay_a_text() -> None:
    call = {**CALL, "function": {"name": "f", "arguments": "no JSON"}}
    told = [{"role": "assistant", "tool_calls": [call]}]
    source = "{% for m in messages %}{{ m.tool_calls[0].function.arguments }}{% endfor %}"
    assert rendered(request(messages=told), source) == "no JSON"


def test_the_emulated_models_template_shows_tools_and_calls() -> None:
    plain = "system: be brief\nuser: hi\nassistant: \ntool: 42\nassistant: It is 42 \nassistant:"
    without = [message | {"tool_calls": []} for message in MESSAGES]
    assert rendered(request(messages=without), CHAT_TEMPLATE) == plain
    text = rendered(request(tools=[TOOL]), CHAT_TEMPLATE)
    assert text.startswith('tools: [{"type": "function"')
    assert 'assistant: <tool_call>{"name": "f", "arguments": {"a": 1, "b": null}}</tool_call>\ntool: 42' in text


@pytest.mark.parametrize(("wishes", "param"), [
    ({"continue_final_message": True}, "continue_final_message"),
    ({"continue_final_message": True, "add_generation_prompt": False, "messages": MESSAGES[:3]}, "continue_final_message"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
])  # fmt: skip
def test_wishes_that_contradict_are_refused(wishes: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as raised:
        rendered(request(**wishes))
    assert (raised.value.status, raised.value.body.param) == (400, param)


def test_a_template_that_leaves_the_last_message_out_cannot_go_on_with_it() -> None:
    with pytest.raises(ApiError, match="leaves the end of the last message out"):
        rendered(request(continue_final_message=True, add_generation_prompt=False), "{{ messages[0].content }}")
