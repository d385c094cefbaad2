"""Lines of the log, written by a process of their own: setting up logs takes over the whole process."""

import subprocess
import sys

import msgspec

PROGRAM = """
import logging
from opentelemetry import trace
from prfaas.telemetry.logs import get_logger, request_logs, set_up_logs
from prfaas.telemetry.tracing import Tracing, extract

set_up_logs(level="info", format=FORMAT, service="prfaas-gateway", site="east", instance="g0")
log = get_logger("prfaas.test")
parent = extract({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
span = Tracing().start("place", parent=parent)
log.debug("hidden")
log.info("plain", tokens=3, weird=object)
with request_logs("r1", span):
    log.warning("inside")
    logging.getLogger("library").warning("said %s", "this", extra={"port": 1})
with trace.use_span(span):
    log.info("current")
try:
    raise ValueError("no")
except ValueError:
    log.exception("failed")
logging.getLogger("nats").info("chatty")
log.info("after")
"""


def run(format: str) -> list[str]:
    program = PROGRAM.replace("FORMAT", repr(format))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_lines_carry_the_process_the_request_and_the_span() -> None:
    lines = [msgspec.json.decode(line) for line in run("json")]
    by_event = {line["event"]: line for line in lines}
    assert list(by_event) == ["plain", "inside", "said this", "current", "failed", "after"]
    for line in lines:
        assert (line["service"], line["site"], line["instance"]) == ("prfaas-gateway", "east", "g0")
        assert line["timestamp"].endswith("Z")
    assert by_event["plain"]["tokens"] == 3 and by_event["plain"]["level"] == "info"
    assert by_event["plain"]["logger"] == "prfaas.test"
    ids = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
    for event in ("inside", "said this"):
        assert {**ids, "request_id": "r1"}.items() <= by_event[event].items()
    assert by_event["said this"]["logger"] == "library" and by_event["said this"]["port"] == 1
    assert ids.items() <= by_event["current"].items()
    assert "request_id" not in by_event["after"] and "trace_id" not in by_event["after"]
    assert 'raise ValueError("no")' in by_event["failed"]["exception"] or "ValueError: no" in by_event["failed"]["exception"]


def test_console_lines_are_for_people() -> None:
    text = "\n".join(run("console"))
    assert "inside" in text and "request_id=r1" in text and "ValueError: no" in text and "{" not in text
