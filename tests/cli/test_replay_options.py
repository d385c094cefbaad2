"""Options of `prfaas replay`, and values of theirs that make no sense."""

import pytest

from prfaas.cli.__main__ import main
from prfaas.cli.replay_options import command_line, server_url


@pytest.mark.parametrize(
    "words",
    [
        ["--api-key", "sk-secret"],
        ["--api-key=sk-secret"],
        ["--api", "sk-secret"],
        ["--api-k=sk-secret"],
        ["--note", "with sk-secret"],
    ],
)
def test_the_command_in_a_report_has_no_key_however_it_was_given(words: list[str]) -> None:
    line = command_line(["/usr/bin/prfaas", "replay", "t.jsonl", *words, "--rate", "3"], "sk-secret")
    assert "secret" not in line and line.startswith("prfaas replay t.jsonl") and line.endswith("--rate 3")


def test_a_command_without_a_key_is_as_it_was() -> None:
    assert command_line(["prfaas", "replay", "a b"], "") == "prfaas replay 'a b'"


@pytest.mark.parametrize("text", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_the_url_that_openais_clients_want_is_taken_too(text: str) -> None:
    assert server_url(text) == "http://h:1"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--slo-share", "1.5"), ("--slo-share", "-0.1"), ("--arrivals-cv", "1e9"), ("--rate", "0"), ("--rate", "nan"),
        ("--rate", "inf"), ("--duration", "0"), ("--duration", "inf"), ("--speed", "-1"), ("--warm-up", "-1"), ("--clients", "0"),
        ("--skip-bad", "-1"), ("--divide-lengths", "0"), ("--divide-lengths", "1.5"), ("--seed", "x"), ("--timeout", "0"),
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["replay", "t.jsonl", "--target", "http://h", option, value])
    assert f"argument {option}: {value!r} is not a" in capsys.readouterr().err
