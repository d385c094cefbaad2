"""A chat's answer that may call functions."""

import secrets
import string
from collections.abc import Sequence
from typing import Final

from msgspec import UNSET

from prfaas.contracts.terms import FinishReason
from prfaas.contracts.to_gateway import TokenDetail
from prfaas_gateway.openai.calls.pieces import CallArguments, CallStarted, Piece
from prfaas_gateway.openai.logprobs import ChatLogprobsGathered
from prfaas_gateway.openai.shapes import ChatShape, Whole
from prfaas_gateway.openai.tool_types import CalledFunction, FunctionDelta, ToolCall, ToolCallDelta
from prfaas_gateway.openai.tool_use import ToolUse
from prfaas_gateway.openai.types import AssistantMessage, ChatChoice, ChatChunkChoice, ChatDelta, ChatLogprobs, Choice

TOOL_CALLS: Final = "tool_calls"
_ID_CHARS: Final = string.ascii_letters + string.digits


class Calls:
    """Calls of one answer, numbered and named."""

    def __init__(self, use: ToolUse) -> None:
        self._parser = use.family.parser(use.functions)
        self._most = None if use.parallel else 1
        self._count = 0

    def push(self, text: str) -> list[str | ToolCallDelta]:
        return self._told(self._parser.push(text))

    def flush(self) -> list[str | ToolCallDelta]:
        return self._told(self._parser.flush())

    def finish_reason(self, finish_reason: str) -> str:
        return TOOL_CALLS if self._count and finish_reason == FinishReason.STOP else finish_reason

    def _told(self, pieces: Sequence[Piece]) -> list[str | ToolCallDelta]:
        told: list[str | ToolCallDelta] = []
        for piece in pieces:
            if isinstance(piece, str):
                told.append(piece)
                continue
            self._count += isinstance(piece, CallStarted)
            if self._most is not None and self._count > self._most:
                continue
            index = self._count - 1
            match piece:
                case CallStarted(name):
                    function = FunctionDelta(name=name, arguments="")
                    told.append(ToolCallDelta(index=index, id=new_call_id(), type="function", function=function))
                case CallArguments(text):
                    told.append(ToolCallDelta(index=index, function=FunctionDelta(arguments=text)))
        return told


def new_call_id() -> str:
    """Returns 9 letters and digits: Mistral's chat templates take no others."""
    return "".join(secrets.choice(_ID_CHARS) for _ in range(9))


class ToolChatShape(ChatShape):
    """Shape of one answer, whose text goes through its calls' parser."""

    def __init__(self, use: ToolUse) -> None:
        self._use = use
        self._calls = Calls(use)

    def deltas(self, text: str, details: Sequence[TokenDetail]) -> list[Choice]:
        choices = self._spelled(self._calls.push(text))
        if not details:
            return choices
        # What a token brings may be held back: its log-probabilities are not.
        logprobs = ChatLogprobsGathered()
        logprobs.add(details)
        first = choices[0] if choices else ChatChunkChoice(delta=ChatDelta(content=""))
        assert isinstance(first, ChatChunkChoice)
        return [ChatChunkChoice(delta=first.delta, logprobs=logprobs.block(logprobs.entries.raw())), *choices[1:]]

    def closing(self) -> list[Choice]:
        return self._spelled(self._calls.flush())

    def ending(self, finish_reason: str) -> Choice:
        return super().ending(self._calls.finish_reason(finish_reason))

    def whole(self) -> Whole[ChatLogprobs]:
        return WholeWithCalls(Calls(self._use))

    def _spelled(self, told: Sequence[str | ToolCallDelta]) -> list[Choice]:
        return [
            ChatChunkChoice(delta=ChatDelta(content=each) if isinstance(each, str) else ChatDelta(tool_calls=[each]))
            for each in told
        ]


class WholeWithCalls(Whole[ChatLogprobs]):
    """An answer that is sent in one body. All of its text goes through the parser at its end."""

    def __init__(self, calls: Calls) -> None:
        super().__init__(ChatLogprobsGathered(), self._choice)
        self._calls = calls

    def _choice(self, text: str, logprobs: ChatLogprobs | None, finish_reason: str) -> Choice:
        told = [*self._calls.push(text), *self._calls.flush()]
        content = "".join(each for each in told if isinstance(each, str))
        calls = _joined([each for each in told if isinstance(each, ToolCallDelta)])
        message = AssistantMessage(content=content or (None if calls else ""), tool_calls=calls or UNSET)
        return ChatChoice(message=message, logprobs=logprobs, finish_reason=self._calls.finish_reason(finish_reason))


def _joined(deltas: Sequence[ToolCallDelta]) -> list[ToolCall]:
    """Returns calls from their parts."""
    calls: list[ToolCall] = []
    for delta in deltas:
        if isinstance(delta.id, str) and isinstance(delta.function.name, str):
            calls.append(ToolCall(id=delta.id, function=CalledFunction(name=delta.function.name, arguments="")))
        else:
            last = calls[-1]
            function = CalledFunction(name=last.function.name, arguments=last.function.arguments + delta.function.arguments)
            calls[-1] = ToolCall(id=last.id, function=function)
    return calls
