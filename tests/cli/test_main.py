import pytest

from prfaas import __version__
from prfaas.cli.__main__ import main


def test_the_command_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"prfaas {__version__}\n"


@pytest.mark.parametrize("argv", [[], ["unknown"], ["plan"]])
def test_a_wrong_call_is_told_how_to_call(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert "usage: prfaas" in capsys.readouterr().err
