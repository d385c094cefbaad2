"""`prfaas plan` with whatever a file may hold: a plan that is possible, or one sentence and exit status 2."""

import contextlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.capacity.profiles import LIMITS
from prfaas.cli.__main__ import main
from prfaas.planner.deployment import CASES, MAX_INSTANCES

PAPER = (CASES / "paper.toml").read_text()


def profile(prefill: list[tuple[float, float]], decode: list[tuple[float, float]] | None = None) -> str:
    return json.dumps(
        {
            "name": "mine",
            "source": "made up",
            "prefill": [{"tokens": tokens, "prefill_s": seconds, "kv_bytes": 1e5 * tokens} for tokens, seconds in prefill],
            "decode": [{"batch": batch, "step_s": step_s} for batch, step_s in decode or [(1, 0.02), (16, 0.024)]],
        }
    )


MINE = PAPER.replace('"paper-1t-h20"', '"mine"') + '\n[[profile]]\nname = "mine"\nfile = "mine.json"\n'


def plan(folder: Path, toml: str, profile_json: str | bytes = "", *more: str) -> int:
    (folder / "sites.toml").write_text(toml, encoding="utf-8")
    content = profile_json if isinstance(profile_json, bytes) else profile_json.encode()
    (folder / "mine.json").write_bytes(content)
    return main(["plan", str(folder / "sites.toml"), *more])


def test_a_good_profile_of_ones_own_is_planned_with(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path, MINE, profile([(128, 0.3), (131_072, 400.0)])) == 0
    assert "extended line" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (profile([(128, 0.310), (256, 0.300)]), "prefill_s falls from 0.31 at 128 tokens to 0.3 at 256"),
        (profile([(128, 0.3), (128, 0.4)]), "tokens must rise from point to point, but they are .128, 128."),
        (profile([(256, 0.3), (128, 0.4)]), "tokens must rise from point to point, but they are .256, 128."),
        (profile([(128, 0.3)]), "at least 2 are needed"),
        (profile([(128, -1), (256, 1)]), "prefill_s must be positive and finite, not -1"),
        (profile([(128, 0), (256, 1)]), "prefill_s must be positive and finite, not 0"),
        (profile([(0, 1), (256, 1)]), "tokens must be positive and finite, not 0"),
        (profile([(128, 1e300), (256, 1e301)]), r"prefill_s is 1e\+300"),
        (profile([(128, 0.3), (256, math.nan)]), "is not usable"),
        (profile([(128, 0.3), (256, math.inf)]), "is not usable"),
        (profile([(128, 0.3), (1e30, 0.5)]), "is not usable"),
        (profile([(128, 0.3), (256, 0.4)], [(1, 0.02), (8, 0.01)]), "step_s falls from 0.02 at 1 batch to 0.01 at 8"),
        (profile([(128, 0.3), (256, 0.4)], [(1, 0)]), "step_s must be positive and finite, not 0"),
        (profile([(128, 0.3), (256, 0.4)], [(10**7, 0.02)]), r"batch is 1e\+07"),
        (profile([(n, 0.3) for n in range(1, 6000)]), "at most 4096 are read"),
        ('{"name": "a", "source": "b", "x": ' + "[" * 100_000, "nested too deeply|is not usable"),
        ("", "is not usable"),
        (b"\xff\xfe{", "is not usable"),
        ("[]", "is not usable"),
    ],
)
def test_an_impossible_profile_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str | bytes, message: str
) -> None:

    assert plan(tmp_path, MINE, content) == 2
    printed = capfd.readouterr()
    assert re.search(message, printed.err)
    assert printed.out == ""
    assert "mine" in printed.err and printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gbit-s = 100", "gbit-s = -1"),
        ("gbit-s = 100", "gbit-s = nan"),
        ("gbit-s = 100", "gbit-s = inf"),
        ("decode-tokens-per-s = 40", "decode-tokens-per-s = 0"),
        ("decode-tokens-per-s = 40", "decode-tokens-per-s = nan"),
        ("decode-tokens-per-s = 40", "decode-tokens-per-s = 40\nttft-p90-s = 0"),
        ("instances = 8", "instances = -8"),
        ("instances = 8", f"instances = {MAX_INSTANCES + 1}"),
        ("instances = 8", "instances = 9999999999999999999999"),
        ("instances = 8", f"instances = {'9' * 5000}"),
        ("instances = 8", "instances = 8.5"),
        ("instances = 8", "instances = 8\ncost = 0"),
        ("instances = 8", "instances = 8\ncost = inf"),
        ("sigma = 1.00", "sigma = 1e9"),
        ("sigma = 1.00", "sigma = inf"),
        ("mu = 9.90", "mu = nan"),
        ("mu = 9.90", "mu = 1e300"),
        ("high-tokens = 131072", "high-tokens = inf"),
        ("output-tokens = 1024", "output-tokens = 0"),
        ("output-tokens = 1024", "output-tokens = 1024\nrate-req-s = -1"),
        ('name = "h200"', 'name = "h\\n200"'),
        ("[traffic]", f"x = {'[' * 50_000}\n[traffic]"),
    ],
)
def test_an_impossible_deployment_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], old: str, new: str) -> None:
    assert old in PAPER
    assert plan(tmp_path, PAPER.replace(old, new)) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("prfaas plan: ") and printed.err.count("\n") == 1


def test_files_that_are_none_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"')
    os.truncate(tmp_path / "latin.toml", 14)
    (tmp_path / "large.toml").write_bytes(b"#" * (17 << 20))
    for path, message in (
        (tmp_path / "latin.toml", "it is not UTF-8"),
        (tmp_path / "large.toml", "more than 16 MiB"),
        (tmp_path, "Is a directory"),
        (tmp_path / ("x" * 5000), "File name too long"),
        (Path("/dev/zero"), "more than 16 MiB"),
    ):
        for more in ([], ["--show"], ["--json"]):
            assert main(["plan", str(path), *more]) == 2
            assert message in capfd.readouterr().err


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "sites.toml").write_bytes(b"\xef\xbb\xbf" + PAPER.replace("\n", "\r\n").encode())
    assert main(["plan", str(tmp_path / "sites.toml")]) == 0


def test_lengths_beyond_the_profile_are_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    short = profile([(128, 0.3), (4096, 12.0)])
    assert plan(tmp_path, MINE, short) == 0
    text = capfd.readouterr().out
    assert "Profile mine (h20) ends at 4,096 tokens." in text
    assert "131,072 tokens, 32.0 times as long" in text
    assert plan(tmp_path, MINE, short, "--json") == 0
    (beyond,) = json.loads(capfd.readouterr().out)["extrapolated"]
    assert (beyond["profile"], beyond["sites"], beyond["times"]) == ("mine", ["h20"], 32.0)
    assert beyond["request_share"] == pytest.approx(0.94, abs=0.01)


def test_a_trace_that_cannot_be_read_is_a_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    toml = PAPER.replace(
        "lognormal = { mu = 9.90, sigma = 1.00, low-tokens = 128, high-tokens = 131072 }", 'trace = { file = "t.jsonl" }'
    )
    (tmp_path / "t.jsonl").write_text('{"timestamp": 0, "input_length": -10, "output_length": 1}\n')
    assert plan(tmp_path, toml) == 2
    assert "line 1: field input_length is -10; expected a whole number from 1" in capfd.readouterr().err
    (tmp_path / "t.jsonl").write_text('{"timestamp": 0, "input_length": 9000, "output_length": 1}\n' * 9)
    assert plan(tmp_path, toml) == 0
    (tmp_path / "t.jsonl").write_text("")
    assert plan(tmp_path, toml) == 2
    assert "the file is empty" in capfd.readouterr().err


def test_prompts_that_are_cached_as_a_whole_are_no_reason_to_offload(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    toml = PAPER.replace(
        "lognormal = { mu = 9.90, sigma = 1.00, low-tokens = 128, high-tokens = 131072 }", 'trace = { file = "t.jsonl" }'
    )
    row = '{"timestamp": 0, "input_length": 512, "output_length": 1, "hash_ids": [1]}\n'
    (tmp_path / "t.jsonl").write_text(row * 50)
    assert plan(tmp_path, toml) == 0
    assert "more than -1" not in capfd.readouterr().out


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [0, -1, 1, 2, 1e-9, 1e9, 1e308, -0.0, math.inf, -math.inf, math.nan, 2**63, 2**70, True, "1", "", None, [], {}]
)
TOKENS = st.floats(1, 2e5) | ODD
SOME = st.floats(1e-3, 1e3) | ODD
WHOLE = st.integers(0, 40) | ODD
NAMES = st.sampled_from(["a", "b", "c", "é", ""])


def maybe(
    fields: dict[str, st.SearchStrategy[Any]], needed: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(needed, optional=fields)


PROFILES = st.fixed_dictionaries(
    {
        "name": st.just("p"),
        "source": st.just("s"),
        "prefill": st.lists(
            st.fixed_dictionaries(
                {"tokens": st.integers(1, 10**6) | ODD, "prefill_s": SOME, "kv_bytes": st.floats(1, 1e12) | ODD}
            ),
            max_size=4,
        ),
        "decode": st.lists(st.fixed_dictionaries({"batch": WHOLE, "step_s": st.floats(1e-3, 1) | ODD}), max_size=3),
    }
)


@st.composite
def rising_profiles(draw: st.DrawFn) -> dict[str, Any]:
    """Profiles that may be possible, of machines however strange."""

    def curve(low: float, high: float, count: int) -> list[float]:
        return sorted(draw(st.lists(st.floats(low, high), min_size=count, max_size=count)))

    tokens = sorted(draw(st.sets(st.integers(1, 10**8), min_size=2, max_size=4)))
    batches = sorted(draw(st.sets(st.integers(1, 10**6), min_size=1, max_size=3)))
    prefill_s, kv_bytes = curve(*LIMITS["prefill_s"], len(tokens)), curve(*LIMITS["kv_bytes"], len(tokens))
    steps = curve(*LIMITS["step_s"], len(batches))
    return {
        "name": "p",
        "source": "s",
        "prefill": [
            {"tokens": n, "prefill_s": seconds, "kv_bytes": size}
            for n, seconds, size in zip(tokens, prefill_s, kv_bytes, strict=True)
        ],
        "decode": [{"batch": n, "step_s": step_s} for n, step_s in zip(batches, steps, strict=True)],
    }


SITE = maybe(
    {"cost": SOME, "demand-share": st.floats(0, 1) | ODD},
    {
        "name": NAMES,
        "kind": st.sampled_from(["prfaas", "pd"]),
        "instances": st.integers(0, 6) | ODD,
        "profile": st.sampled_from(["mine", "mine", "paper-1t-h20", "none"]),
    },
)
DEPLOYMENTS = maybe(
    {
        "link": st.lists(
            st.fixed_dictionaries({"source": NAMES, "destination": NAMES, "gbit-s": st.floats(0, 1e3) | ODD}), max_size=3
        )
    },
    {
        "traffic": maybe(
            {"rate-req-s": SOME},
            {
                "output-tokens": TOKENS,
                "lognormal": st.fixed_dictionaries(
                    {
                        "mu": st.floats(-5, 15) | ODD,
                        "sigma": st.floats(0.01, 5) | ODD,
                        "low-tokens": TOKENS,
                        "high-tokens": TOKENS,
                    }
                ),
            },
        ),
        "slo": maybe({"ttft-p90-s": SOME}, {"decode-tokens-per-s": SOME}),
        "site": st.lists(SITE, max_size=3),
    },
)


@st.composite
def possible_deployments(draw: st.DrawFn) -> dict[str, Any]:
    """Deployments within the bounds of each key, so that the solvers are reached."""
    low, high = sorted(draw(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6))))
    kinds = draw(st.sampled_from([["prfaas", "pd"], ["pd"], ["prfaas", "pd", "pd"], ["prfaas", "prfaas", "pd"]]))
    sites = [
        {
            "name": f"s{n}",
            "kind": kind,
            "instances": draw(st.integers(2, 5)),
            "profile": "mine",
            "cost": draw(st.floats(1e-6, 1e6)),
        }
        for n, kind in enumerate(kinds)
    ]
    pd = [site["name"] for site in sites if site["kind"] == "pd"]
    links = [
        {"source": site["name"], "destination": draw(st.sampled_from(pd)), "gbit-s": draw(st.floats(0, 1e6))}
        for site in sites
        if site["kind"] == "prfaas"
    ]
    lognormal = {"mu": draw(st.floats(0, 14)), "sigma": draw(st.floats(0.01, 20)), "low-tokens": low, "high-tokens": high}
    return {
        "traffic": {"output-tokens": draw(st.floats(1, 1e5)), "lognormal": lognormal},
        "slo": {"decode-tokens-per-s": draw(st.floats(1e-6, 1e3))},
        "site": sites,
        "link": links,
    }


def toml_value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case float() if math.isinf(value) or math.isnan(value):
            return repr(value)
        case list():
            return "[" + ", ".join(map(toml_value, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {toml_value(each)}" for key, each in value.items()) + "}"
        case None:
            return '"none"'
        case float():
            text = repr(value)
            return text if "." in text or "e" not in text else text.replace("e", ".0e")
        case _:
            return str(value)


def printed_by(function: Callable[[], int]) -> tuple[int, str, str]:
    """Runs it and returns its status and what it printed: fixtures stay the same over all examples of a test."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = function()
    texts = []
    for stream in (out, err):
        stream.seek(0)
        texts.append(stream.read())
    return status, texts[0], texts[1]


@given(DEPLOYMENTS | possible_deployments(), PROFILES | rising_profiles(), st.booleans())
def test_every_deployment_file_gives_a_possible_plan_or_one_sentence(
    deployment: dict[str, Any], profile_json: dict[str, Any], as_json: bool
) -> None:
    tables = {**deployment, "profile": [{"name": "mine", "file": "mine.json"}]}
    with tempfile.TemporaryDirectory() as folder:
        toml = "\n".join(f"{key} = {toml_value(value)}" for key, value in tables.items())
        status, out, err = printed_by(
            lambda: plan(Path(folder), toml, json.dumps(profile_json), *(["--json"] if as_json else []))
        )
    if status:
        assert status == 2
        assert out == ""
        assert err.startswith("prfaas plan: ") and err.count("\n") == 1 and len(err) < 1500
        return
    assert out
    if as_json:
        found = json.loads(out)
        assert 0 <= found["ttft_mean_s"] < math.inf and 0 <= found["ttft_p90_s"] < math.inf
        assert 0 < found["throughput_req_s"] < math.inf
        assert 0 <= found["offloaded_share"] <= 1.0001
        assert found["threshold_tokens"] is None or found["threshold_tokens"] >= 0


@given(st.text(max_size=60) | st.sampled_from(PAPER.splitlines()).flatmap(lambda line: st.just(PAPER.replace(line, line[:-1]))))
def test_every_text_gives_a_plan_or_one_sentence(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sites.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
        status, out, err = printed_by(lambda: main(["plan", f"{folder}/sites.toml"]))
    assert status in (0, 2)
    assert (status == 0) == bool(out)
    assert status == 0 or err.count("\n") == 1
