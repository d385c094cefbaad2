"""Blocks of an answer come one after another, whatever the model wrote and however it was cut up."""

from itertools import pairwise

from hypothesis import given, settings

from prfaas.contracts.to_gateway import GenerateEvent
from prfaas_gateway.openai.blocks import Began, Block, BlockAnswer, Change, Ended, Grew
from prfaas_gateway.openai.tool_use import ToolUse
from tests.budget import examples
from tests.gateway.openai.block_answers import USE, answers, call_text, events_of, progress, uses


def changes_of(events: list[GenerateEvent], use: ToolUse | None) -> tuple[list[Change], list[Block]]:
    answer = BlockAnswer(progress(), use)
    return [change for event in events for change in answer.changes(event)], answer.blocks.all


@settings(max_examples=examples(300), deadline=None)
@given(answers, uses)
def test_each_block_begins_grows_and_ends_before_the_next(events: list[GenerateEvent], use: ToolUse | None) -> None:
    changes, blocks = changes_of(events, use)
    open_block: Block | None = None
    begun: list[Block] = []
    texts: list[str] = []
    for change in changes:
        if isinstance(change, Began):
            assert open_block is None and change.block.index == len(begun)
            open_block = change.block
            begun.append(open_block)
            texts.append("")
        else:
            assert change.block is open_block
            if isinstance(change, Grew):
                assert change.text
                texts[-1] += change.text
            else:
                open_block = None
    assert open_block is None
    assert begun == blocks and texts == [block.text for block in blocks]
    assert all(block.text for block in blocks if not block.call_id)
    assert all(a.call_id or b.call_id for a, b in pairwise(blocks)), "two texts are one"


@settings(max_examples=examples(100), deadline=None)
@given(answers)
def test_without_tools_all_is_one_text(events: list[GenerateEvent]) -> None:
    _, blocks = changes_of(events, None)
    whole = "".join(getattr(event, "text", "") for event in events)
    assert "".join(block.text for block in blocks) == whole and len(blocks) == bool(whole)


def test_texts_and_calls_keep_their_order() -> None:
    changes, blocks = changes_of(events_of(["I ", "see." + call_text({"a": 1}), call_text({}), "Done"], rest="."), USE)
    assert [(block.name, block.text) for block in blocks] == [
        ("", "I see."),
        ("look", '{"a": 1}'),
        ("look", "{}"),
        ("", "Done."),
    ]
    assert isinstance(changes[-1], Ended)
    assert len({block.call_id for block in blocks}) == 3
