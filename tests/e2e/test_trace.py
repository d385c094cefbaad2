"""One request, one trace: from the client's traceparent through both sites to the last token."""

import pytest

from infra.otlp_sink import OtlpSink, SpanTree
from prfaas.stack.stack import Stack
from tests.e2e.asking import complete, tokens_of
from tests.e2e.conftest import describe

DESCRIPTION = describe("smollm2-135m")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN_ID = "b7ad6b7169203331"
SPANS = {
    "text_completion smollm2-135m",
    "tokenize",
    "place",
    "generate",
    "kv_transfer",
    "prefill_queue",
    "prefill",
    "kv_send",
} | {
    "decode",
    "stream",
}


def complete_tree(tree: SpanTree) -> bool:
    return {span.name for span in tree.spans} >= SPANS and len(tree.named("place")) == 2


async def test_the_whole_tree_of_an_offloaded_request(stack: Stack, sink: OtlpSink) -> None:
    told = await complete(stack, tokens_of(900), headers={"traceparent": f"00-{TRACE_ID}-{CLIENT_SPAN_ID}-01"})
    assert (told.outcome, told.trace_id) == ("offloaded", TRACE_ID)
    tree = await sink.wait_for_trace(TRACE_ID, until=complete_tree, timeout_s=60.0)

    (root,) = tree.named("text_completion smollm2-135m")
    assert root.parent_id == CLIENT_SPAN_ID, "the client's own span is the parent"
    assert root.attributes["gen_ai.operation.name"] == "text_completion"
    assert root.attributes["gen_ai.provider.name"] == "prfaas"
    assert root.attributes["gen_ai.usage.input_tokens"] == 900

    def one(name: str, service: str, site: str) -> str:
        (span,) = [span for span in tree.named(name) if (span.service, span.site) == (f"prfaas-{service}", site)]
        parent = tree.parent(span)
        assert not span.failed, span.message
        return parent.name if parent else ""

    assert one("place", "scheduler", "local") == "place"
    assert one("generate", "decode-worker", "local")
    assert one("kv_transfer", "decode-worker", "local") == "generate"
    assert one("decode", "decode-worker", "local") == "generate"
    for name in ("prefill_queue", "prefill", "kv_send"):
        assert one(name, "prefill-worker", "remote") == "kv_transfer"

    (received,) = tree.named("kv_transfer")
    (prefill,) = tree.named("prefill")
    assert received.attributes["prfaas.kv.bytes"] == 899 * 23_040
    numbers = {name: value for name, value in received.attributes.items() if isinstance(value, int | float)}
    assert numbers["prfaas.kv.frames"] > 30
    assert 0 <= numbers["prfaas.kv.overlap_ratio"] <= 1
    assert numbers["prfaas.kv.goodput_bytes_per_s"] > 0
    assert root.start_ns <= prefill.start_ns < received.end_ns <= root.end_ns
