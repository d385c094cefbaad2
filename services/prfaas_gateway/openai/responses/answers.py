"""Answers of the Responses API: events of a request in, a body or events of a stream out. Pure."""

from typing import Any, Final

import msgspec

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.terms import FinishReason
from prfaas.contracts.to_gateway import Failed, Finished, GenerateEvent, Started, Tokens
from prfaas_gateway.dialect import Asked
from prfaas_gateway.openai.blocks import Began, Block, BlockAnswer, Change, Grew
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.openai.responses.requests import ResponsesRequest
from prfaas_gateway.openai.responses.types import (
    SERVER_ERROR,
    IncompleteDetails,
    InputTokensDetails,
    Response,
    ResponseError,
    ResponseUsage,
    Status,
)
from prfaas_gateway.sse import named_event

_TOO_MANY: Final = 429


class _Answer:
    """One answer, and what its request says of it."""

    def __init__(self, asked: Asked, progress: Progress) -> None:
        assert isinstance(asked.request, ResponsesRequest)
        self.progress = progress
        self._asked = asked
        self._echo = asked.request.echo
        self._answer = BlockAnswer(progress, asked.tool_use, never_none=True)

    def _response(self, status: Status, output: list[dict[str, Any]], error: ResponseError | None = None) -> Response:
        return Response(
            id=f"resp_{self._asked.request_id}",
            created_at=self._asked.created,
            status=status,
            error=error,
            incomplete_details=IncompleteDetails() if status == "incomplete" else None,
            model=self._asked.model,
            output=output,
            temperature=self._asked.sampling.temperature,
            top_p=self._asked.sampling.top_p,
            usage=None if status == "in_progress" else self._usage(),
            **msgspec.structs.asdict(self._echo),
        )

    def _finished(self) -> Response:
        """Returns the response of an answer that has finished."""
        return self._response("incomplete" if self._is_cut else "completed", list(map(self._item, self._answer.blocks.all)))

    @property
    def _is_cut(self) -> bool:
        finished = self.progress.finished
        return finished is not None and finished.finish_reason == FinishReason.LENGTH

    def _item(self, block: Block) -> dict[str, Any]:
        if not block.ended:
            return self._item_as(block, "incomplete")
        return self._item_as(block, "incomplete" if self._is_cut and block is self._answer.blocks.all[-1] else "completed")

    def _item_as(self, block: Block, status: str) -> dict[str, Any]:
        item = {"id": self._item_id(block), "status": status}
        if block.call_id:
            call = {"call_id": block.call_id, "name": block.name, "arguments": block.text}
            return {**item, "type": "function_call", **call}
        content = [] if status == "in_progress" else [_part(block.text)]
        return {**item, "type": "message", "role": "assistant", "content": content}

    def _item_id(self, block: Block) -> str:
        return f"{'fc' if block.call_id else 'msg'}_{self._asked.request_id}_{block.index}"

    def _usage(self) -> ResponseUsage:
        usage = self.progress.usage(report=self._asked.report)
        return ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens),
            output_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
            prfaas=usage.prfaas,
        )


class WholeResponse(_Answer):
    """An answer that is sent as one body."""

    def handle(self, event: GenerateEvent) -> None:
        """Raises EventGapError."""
        self._answer.changes(event)

    def body(self) -> list[bytes]:
        return [msgspec.json.encode(self._finished())]


class StreamedResponse(_Answer):
    """An answer that is sent as server-sent events."""

    def __init__(self, asked: Asked, progress: Progress) -> None:
        super().__init__(asked, progress)
        self._sequence_number = 0

    def handle(self, event: GenerateEvent) -> bytes:
        """Returns the bytes to send now, possibly none. Raises EventGapError."""
        changed = b"".join(map(self._told, self._answer.changes(event)))
        match event:
            case Started():
                response = self._response("in_progress", [])
                return self._event("created", response=response) + self._event("in_progress", response=response)
            case Finished():
                response = self._finished()
                return changed + self._event(response.status, response=response)
            case Tokens() | Failed():
                return changed

    def failed(self, error: ApiError) -> bytes:
        code = FailureCode.RATE_LIMIT_EXCEEDED.value if error.status == _TOO_MANY else SERVER_ERROR
        told = ResponseError(code=code, message=error.body.message)
        return self._event("failed", response=self._response("failed", list(map(self._item, self._answer.blocks.all)), told))

    def _event(self, name: str, /, **fields: Any) -> bytes:
        self._sequence_number += 1
        return named_event(f"response.{name}", sequence_number=self._sequence_number - 1, **fields)

    def _told(self, change: Change) -> bytes:
        block = change.block
        at_item = {"output_index": block.index}
        if isinstance(change, Began):
            begun = self._event("output_item.added", **at_item, item=self._begun(block))
            return begun if block.call_id else begun + self._event("content_part.added", **self._place(block), part=_part(""))
        if isinstance(change, Grew):
            if block.call_id:
                return self._event("function_call_arguments.delta", **self._place(block), delta=change.text)
            return self._event("output_text.delta", **self._place(block), delta=change.text, logprobs=[])
        ended = (
            self._event("function_call_arguments.done", **self._place(block), name=block.name, arguments=block.text)
            if block.call_id
            else self._event("output_text.done", **self._place(block), text=block.text, logprobs=[])
            + self._event("content_part.done", **self._place(block), part=_part(block.text))
        )
        return ended + self._event("output_item.done", **at_item, item=self._item(block))

    def _begun(self, block: Block) -> dict[str, Any]:
        """Returns the item as it begins: what has come of it meanwhile is told by the events after it."""
        return self._item_as(Block(block.index, block.call_id, block.name), "in_progress")

    def _place(self, block: Block) -> dict[str, Any]:
        place = {"item_id": self._item_id(block), "output_index": block.index}
        return place if block.call_id else {**place, "content_index": 0}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
