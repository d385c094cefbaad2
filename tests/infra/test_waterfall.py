"""A trace as text, letter for letter."""

from textwrap import dedent

from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from infra.otlp_sink import Attribute, SinkSpan
from infra.waterfall import waterfall
from prfaas.telemetry import names

MS = 1_000_000
BEGIN_NS = 1_790_000_000 * 1_000_000_000


def span(name: str, parent: str, service: str, site: str, start_ms: float, end_ms: float, **attributes: Attribute) -> SinkSpan:
    return SinkSpan(
        trace_id="t", span_id=name, parent_id=parent, name=name, service=f"prfaas-{service}", site=site,
        start_ns=BEGIN_NS + int(start_ms * MS), end_ns=BEGIN_NS + int(end_ms * MS),
        attributes={getattr(names, key): value for key, value in attributes.items()},
        failed="ERROR_TYPE" in attributes,
    )  # fmt: skip


TRACE = [
    span("decode", "generate", "decode-worker", "east", 950, 1500, USAGE_OUTPUT_TOKENS=32),
    span("chat gemma", "", "gateway", "east", 0, 1600, USAGE_INPUT_TOKENS=4000, OUTCOME="offloaded"),
    span("place", "chat gemma", "scheduler", "east", 2, 2.4, ROUTE_REASON="4,000 uncached tokens are more than 2,048"),
    span("generate", "chat gemma", "decode-worker", "east", 3, 1500),
    span("prefill", "generate", "prefill-worker", "west", 20, 900, PREFILL_TOKENS=3999),
    span(
        "kv_transfer", "generate", "decode-worker", "east", 60, 950,
        KV_BYTES=20_138_000, KV_GOODPUT=22_627_000.0, KV_OVERLAP_RATIO=0.944, KV_RESIDUAL_S=0.05,
    ),
]  # fmt: skip


def expected(text: str) -> str:
    return dedent(text).lstrip("\n")


def test_a_wide_terminal_shows_details() -> None:
    assert waterfall(TRACE, width=120) == expected("""
        site, service        span             0                 1.60 s      time
        east gateway         chat gemma       ████████████████████████    1.60 s  offloaded, 4,000 tokens in
        east scheduler         place          █                           0.4 ms
        east decode-worker     generate       ███████████████████████     1.50 s
        west prefill-worker      prefill      ██████████████              880 ms  3,999 tokens
        east decode-worker       kv_transfer  ███████████████             890 ms  20.1 MB, overlap 94%, 22.6 MB/s, residual 50.…
        east decode-worker       decode                     █████████     550 ms  32 out
    """)


def test_a_narrow_terminal_keeps_the_bars() -> None:
    assert waterfall(TRACE, width=80) == expected("""
        site, service        span             0                         1.60 s      time
        east gateway         chat gemma       ████████████████████████████████    1.60 s
        east scheduler         place          █                                   0.4 ms
        east decode-worker     generate       ██████████████████████████████      1.50 s
        west prefill-worker      prefill      ██████████████████                  880 ms
        east decode-worker       kv_transfer   ██████████████████                 890 ms
        east decode-worker       decode                          ███████████      550 ms
    """)


def test_colours_change_nothing_but_colours() -> None:
    failed = [*TRACE, span("retry", "generate", "decode-worker", "east", 1550, 1600, ERROR_TYPE="timeout")]
    coloured = waterfall(failed, width=130, color=True)
    assert "\x1b[31m" in coloured and "timeout" in coloured
    assert [line.rstrip() for line in Text.from_ansi(coloured).plain.splitlines()] == waterfall(failed, width=130).splitlines()


def test_no_spans_are_said() -> None:
    assert waterfall([]) == "no spans\n"


@given(
    st.integers(80, 220),
    st.lists(st.tuples(st.integers(0, 10**10), st.integers(0, 10**10), st.integers(0, 8)), min_size=1, max_size=9),
)
def test_any_trace_fits_any_width_with_a_bar_on_every_line(width: int, shapes: list[tuple[int, int, int]]) -> None:
    spans = [
        span(
            f"s{i}", f"s{parent}" if parent < i else "", "decode-worker", "a-site-with-a-name", start / MS, (start + length) / MS
        )
        for i, (start, length, parent) in enumerate(shapes)
    ]
    head, *lines = waterfall(spans, width=width).splitlines()
    assert len(lines) == len(spans)
    assert all(len(line) <= width and "█" in line for line in lines) and len(head) <= width
