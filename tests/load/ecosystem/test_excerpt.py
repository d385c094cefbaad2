"""The excerpt that all clients send, and the tokenizer that they find."""

import json
from pathlib import Path

import pytest

from load.ecosystem.excerpt import excerpt, write_mooncake
from load.ecosystem.tokenizer import hub_name, write_hub_cache
from prfaas.engine.weights import prepare
from prfaas.traces import read_trace


def test_an_excerpt_keeps_the_traces_blocks_and_is_read_back_as_it_was(tmp_path: Path) -> None:
    taken = excerpt(requests=40, rate_req_s=2.0, max_input_tokens=4096, max_output_tokens=32)
    assert len(taken) == 40 and taken[0].arrival_s == 0.0
    assert taken[-1].arrival_s == pytest.approx(40 / 2.0), "forty requests at two a second"
    assert max(request.input_tokens for request in taken) <= 4096
    assert max(request.output_tokens for request in taken) == 32
    assert {request.block_ids[0] for request in taken} == {0}, "one system prompt in all of them"
    path = tmp_path / "e.jsonl"
    write_mooncake(taken, path)
    found = list(read_trace(path))
    assert [request.arrival_s for request in found] == pytest.approx([request.arrival_s for request in taken], abs=1e-3)
    assert [request[1:5] for request in found] == [request[1:5] for request in taken]


def test_a_tokenizer_lies_where_a_hub_would_have_put_it(tmp_path: Path) -> None:
    files = prepare("emulated-1t")
    snapshot = write_hub_cache(files, tmp_path)
    owner, name = hub_name("emulated-1t").split("/")
    assert snapshot == tmp_path / "hub" / f"models--{owner}--{name}" / "snapshots" / "1"
    assert (snapshot / "tokenizer.json").read_bytes() == files.tokenizer.read_bytes()
    assert json.loads((snapshot / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (snapshot.parents[1] / "refs" / "main").read_text() == "1"
