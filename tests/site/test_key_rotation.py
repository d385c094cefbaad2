"""Steps of a rotation: in order only, each user with a seed to read at any moment."""

from pathlib import Path

import pytest

from prfaas.site.key_rotation import RotationOrderError, RotationStep, next_step, take_step
from prfaas.site.site_keys import ensure_key, next_file, valid_keys

STEPS = (RotationStep.ADD, RotationStep.USE, RotationStep.DROP)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{name}.nk" for name in ("a", "b")]
    for file in files:
        ensure_key(file)
    return files


def test_servers_know_the_old_and_the_new_key_until_the_last_step(files: list[Path]) -> None:
    first = [ensure_key(file).public for file in files]
    take_step(RotationStep.ADD, files)
    second = [ensure_key(next_file(file)).public for file in files]
    for step, in_use in ((RotationStep.USE, second), (None, None)):
        known = [{key.public for key in valid_keys(ensure_key(file))} for file in files]
        assert known == [{old, new} for old, new in zip(first, second, strict=True)]
        if step is not None:
            take_step(step, files)
            assert [ensure_key(file).public for file in files] == in_use
    take_step(RotationStep.DROP, files)
    assert [[key.public for key in valid_keys(ensure_key(file))] for file in files] == [[new] for new in second]
    assert next_step(files) is RotationStep.ADD


@pytest.mark.parametrize("done", range(3))
def test_a_step_out_of_order_changes_nothing_and_the_right_one_is_named(files: list[Path], done: int) -> None:
    for step in STEPS[:done]:
        take_step(step, files)
    before = {path: path.read_bytes() for path in files[0].parent.iterdir()}
    for wrong in set(STEPS) - {STEPS[done]}:
        with pytest.raises(RotationOrderError, match=f"the next step of the rotation is `{STEPS[done]}`, not `{wrong}`"):
            take_step(wrong, files)
    assert {path: path.read_bytes() for path in files[0].parent.iterdir()} == before


def test_an_interrupted_step_is_taken_again(files: list[Path]) -> None:
    take_step(RotationStep.ADD, files)
    take_step(RotationStep.USE, files[:1])  # it was killed here
    take_step(RotationStep.USE, files)
    assert next_step(files) is RotationStep.DROP


def test_a_user_that_is_newer_than_the_first_step_keeps_its_key(files: list[Path], tmp_path: Path) -> None:
    take_step(RotationStep.ADD, files)
    newer = ensure_key(tmp_path / "c.nk")
    for step in STEPS[1:]:
        take_step(step, [*files, newer.seed_file])
    assert ensure_key(newer.seed_file) == newer
