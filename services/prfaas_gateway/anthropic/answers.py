"""Answers in Anthropic's words: events of a request in, a body or events of a stream out. Pure."""

from collections.abc import Collection
from typing import Any, Final

import msgspec

from prfaas.contracts.terms import FinishReason
from prfaas.contracts.to_gateway import Failed, Finished, GenerateEvent, Started, Tokens
from prfaas_gateway.anthropic.errors import error_body
from prfaas_gateway.anthropic.types import Message, MessageUsage
from prfaas_gateway.dialect import Asked
from prfaas_gateway.openai.blocks import Began, Block, BlockAnswer, Change, Grew
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.openai.tool_shape import TOOL_CALLS
from prfaas_gateway.sse import named_event

RAW_ARGUMENTS: Final = "raw_arguments"
"""Member of `input` that holds the arguments of a call as the model wrote them, where they are no JSON object."""
_STOP_REASONS: Final = {FinishReason.STOP.value: "end_turn", FinishReason.LENGTH.value: "max_tokens", TOOL_CALLS: "tool_use"}


class _Answer:
    """One answer, and what its request says of it."""

    def __init__(self, asked: Asked, progress: Progress) -> None:
        self.progress = progress
        self._asked = asked
        self._answer = BlockAnswer(progress, asked.tool_use)
        stop = asked.request.stop
        self._stop_sequences: Collection[str] = stop if isinstance(stop, list) else ()

    def _message(self, content: list[dict[str, Any]]) -> Message:
        reason, sequence = self._end()
        return Message(
            id=f"msg_{self._asked.request_id}",
            model=self._asked.model,
            content=content,
            stop_reason=reason,
            stop_sequence=sequence,
            usage=self._usage(),
        )

    def _end(self) -> tuple[str | None, str | None]:
        """Returns `stop_reason` and `stop_sequence`, which are null before the end."""
        finished = self.progress.finished
        if finished is None:
            return None, None
        # What ends a base model's turn is no stop sequence of the client's.
        if finished.stop in self._stop_sequences:
            return "stop_sequence", finished.stop
        reason = self._answer.finish_reason
        return _STOP_REASONS.get(reason, reason), None

    def _usage(self) -> MessageUsage:
        usage = self.progress.usage(report=self._asked.report)
        cached_tokens = usage.prompt_tokens_details.cached_tokens
        return MessageUsage(
            input_tokens=usage.prompt_tokens - cached_tokens,
            cache_read_input_tokens=cached_tokens,
            output_tokens=usage.completion_tokens,
            prfaas=usage.prfaas,
        )


class WholeMessage(_Answer):
    """An answer that is sent as one body."""

    def handle(self, event: GenerateEvent) -> None:
        """Raises EventGapError."""
        self._answer.changes(event)

    def body(self) -> list[bytes]:
        return [msgspec.json.encode(self._message([_whole_block(block) for block in self._answer.blocks.all]))]


class StreamedMessage(_Answer):
    """An answer that is sent as server-sent events."""

    def handle(self, event: GenerateEvent) -> bytes:
        """Returns the bytes to send now, possibly none. Raises EventGapError."""
        changed = b"".join(map(_told, self._answer.changes(event)))
        match event:
            case Started():
                return named_event("message_start", message=self._message([]))
            case Finished():
                reason, sequence = self._end()
                delta = {"stop_reason": reason, "stop_sequence": sequence}
                return changed + named_event("message_delta", delta=delta, usage=self._usage()) + named_event("message_stop")
            case Tokens() | Failed():
                return changed

    def failed(self, error: ApiError) -> bytes:
        return named_event("error", error=error_body(error).error)


def _told(change: Change) -> bytes:
    block = change.block
    if isinstance(change, Began):
        begun = _call_block(block, {}) if block.call_id else _text_block("")
        return named_event("content_block_start", index=block.index, content_block=begun)
    if isinstance(change, Grew):
        delta = (
            {"type": "input_json_delta", "partial_json": change.text}
            if block.call_id
            else {"type": "text_delta", "text": change.text}
        )
        return named_event("content_block_delta", index=block.index, delta=delta)
    return named_event("content_block_stop", index=block.index)


def _whole_block(block: Block) -> dict[str, Any]:
    return _call_block(block, _input(block.text)) if block.call_id else _text_block(block.text)


def _text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _call_block(block: Block, input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": input}


def _input(arguments: str) -> Any:
    """Returns the arguments of a call as they are to stand in a body, where they must be an object."""
    if not arguments.strip():
        return {}
    try:
        if isinstance(msgspec.json.decode(arguments), dict):
            return msgspec.Raw(arguments.encode())
    except (ValueError, RecursionError):
        pass
    return {RAW_ARGUMENTS: arguments}
