"""Blocks of an answer, for APIs that keep its texts and its calls in the order in which they are written. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prfaas.contracts.to_gateway import Failed, Finished, GenerateEvent, Started, Tokens
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.openai.tool_shape import Calls
from prfaas_gateway.openai.tool_types import ToolCallDelta
from prfaas_gateway.openai.tool_use import ToolUse


@dataclass(eq=False)
class Block:
    """A text, or a call with its name and arguments."""

    index: int
    """Place among the answer's blocks."""
    call_id: str = ""
    """Empty: a text."""
    name: str = ""
    parts: list[str] = field(default_factory=list)
    ended: bool = False

    @property
    def text(self) -> str:
        """The text, or the JSON text of the call's arguments: so far, until the block has ended."""
        if len(self.parts) > 1:
            self.parts = ["".join(self.parts)]
        return self.parts[0] if self.parts else ""


class Began(NamedTuple):
    block: Block


class Grew(NamedTuple):
    block: Block
    text: str


class Ended(NamedTuple):
    block: Block


Change = Began | Grew | Ended


class Blocks:
    """Blocks of one answer, one after another: each ends before the next one begins."""

    def __init__(self, use: ToolUse | None, *, never_none: bool) -> None:
        """`never_none`: an answer without any text is one empty text, not none at all."""
        self._never_none = never_none
        self._calls = None if use is None else Calls(use)
        self.all: list[Block] = []

    def push(self, text: str) -> Iterator[Change]:
        yield from self._changes(([text] if text else []) if self._calls is None else self._calls.push(text))

    def end(self) -> Iterator[Change]:
        """Yields the changes by what was held back, and the end of the last block; no text follows."""
        yield from self._changes([] if self._calls is None else self._calls.flush())
        if self._never_none and not self.all:
            yield from self._begin()
        yield from self._end_last()

    def finish_reason(self, finish_reason: str) -> str:
        return finish_reason if self._calls is None else self._calls.finish_reason(finish_reason)

    def _changes(self, told: Sequence[str | ToolCallDelta]) -> Iterator[Change]:
        for each in told:
            if isinstance(each, str):
                text = each
                if not self.all or self.all[-1].call_id:
                    yield from self._begin()
            else:
                text = each.function.arguments
                if isinstance(each.id, str) and isinstance(each.function.name, str):
                    yield from self._begin(each.id, each.function.name)
            if text:
                self.all[-1].parts.append(text)
                yield Grew(self.all[-1], text)

    def _begin(self, call_id: str = "", name: str = "") -> Iterator[Change]:
        yield from self._end_last()
        self.all.append(Block(len(self.all), call_id, name))
        yield Began(self.all[-1])

    def _end_last(self) -> Iterator[Change]:
        if self.all and not self.all[-1].ended:
            self.all[-1].ended = True
            yield Ended(self.all[-1])


class BlockAnswer:
    """One answer as blocks, and its progress. Whole and streamed answers are both made of it."""

    def __init__(self, progress: Progress, use: ToolUse | None, *, never_none: bool = False) -> None:
        self.progress = progress
        self.blocks = Blocks(use, never_none=never_none)

    def changes(self, event: GenerateEvent) -> list[Change]:
        """Returns how the blocks change with an event; none of them is open once it has finished. Raises EventGapError."""
        self.progress.accept(event)
        match event:
            case Tokens():
                return list(self.blocks.push(event.text))
            case Finished():
                return [*self.blocks.push(event.text), *self.blocks.end()]
            case Started() | Failed():
                return []

    @property
    def finish_reason(self) -> str:
        """`stop`, `length` or `tool_calls`, of an answer that has finished."""
        assert self.progress.finished is not None
        return self.blocks.finish_reason(self.progress.finished.finish_reason)
