"""Key `ignore-unknown-fields`, as clients and an operator see it."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from prfaas_gateway.large_requests import LARGE_BODY_BYTES
from tests.gateway.conftest import running_edge

METRIC = "prfaas_gateway_ignored_fields_total"


@pytest.mark.parametrize("ignores", [False, True])
async def test_unknown_fields_are_ignored_and_counted_where_the_operator_says_so(tmp_path: Path, ignores: bool) -> None:
    async with running_edge(tmp_path, ignore_unknown_fields=ignores) as edge:
        for fill in ("", " " * (LARGE_BODY_BYTES + 1)):
            for path in ("/v1/completions", "/tokenize"):
                before = edge.metric(METRIC)
                with capture_logs() as logs:
                    answer = await edge.post(path, {"model": "tiny", "prompt": "hello", "strange": 1, "odd": 2, "user": fill})
                said = [line for line in logs if line["event"] == "unknown_fields_ignored"]
                assert answer.status_code == (200 if ignores else 400), answer.text
                assert edge.metric(METRIC) - before == (2 if ignores else 0)
                if ignores:
                    (line,) = said
                    assert (line["log_level"], line["count"], sorted(line["first"])) == ("debug", 2, ["odd", "strange"])
                else:
                    assert not said and answer.json()["error"]["code"] == "unknown_parameter"
