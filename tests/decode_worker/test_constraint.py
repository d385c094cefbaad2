"""A row's grammar: when it is in the step, what it is fed, and whom a slow one holds up."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from prfaas.engine.grammar import forms
from prfaas.engine.grammar.forms import GrammarError
from prfaas.engine.grammar.matcher import GrammarMatcher
from prfaas.engine.row_masks import allowed_ids
from prfaas_decode_worker import constraint as module
from prfaas_decode_worker.constraint import Constraint
from tests.engine.grammar.following import bytes_at

PROMPTS_LAST = 120


class Later(Executor):
    """Does what it is given when the test says so."""

    def __init__(self) -> None:
        self.given: list[Callable[[], None]] = []

    def submit(self, work: Callable[..., Any], /, *of: Any, **named: Any) -> Future[Any]:
        made: Future[Any] = Future()

        def carry_out() -> None:
            try:
                made.set_result(work(*of, **named))
            except Exception as error:
                made.set_exception(error)

        self.given.append(carry_out)
        return made

    def work(self) -> None:
        self.given.pop(0)()


class Place:
    def __init__(self, directory: Path, grammar: str) -> None:
        self.compiling, self.masking = Later(), Later()
        self.woken = 0
        matching: Future[GrammarMatcher] = self.compiling.submit(bytes_at(directory).matcher, grammar)
        self.constraint = Constraint(matching, self.masking, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def allowed(self) -> bytes:
        return bytes(allowed_ids(self.constraint.allowed(), 256))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, forms.choice(["abc", "abd", "x"]))


def test_a_row_is_in_no_step_until_its_first_mask_is_there(place: Place) -> None:
    assert not place.constraint.begin_step(PROMPTS_LAST)
    place.compiling.work()
    assert place.woken == 1
    assert not place.constraint.begin_step(PROMPTS_LAST)
    place.masking.work()
    assert place.woken == 2
    assert place.constraint.begin_step(PROMPTS_LAST)
    assert place.allowed() == b"ax"


def test_later_masks_are_computed_beside_the_step_from_the_tokens_that_it_feeds(place: Place, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "SLOW_MASK_S", 60.0)
    place.compiling.work()
    place.constraint.begin_step(PROMPTS_LAST)
    place.masking.work()
    for token, allowed in ((ord("a"), b"b"), (ord("b"), b"cd")):
        place.constraint.end_step()
        assert place.constraint.begin_step(token)
        assert place.constraint.begin_step(token), "a step that is done again feeds its token once"
        place.masking.work()
        assert not place.masking.given
        assert place.allowed() == allowed


def test_a_row_whose_last_mask_was_slow_waits_for_the_next_outside(place: Place, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "SLOW_MASK_S", 0.0)
    place.compiling.work()
    place.constraint.begin_step(PROMPTS_LAST)
    place.masking.work()
    place.constraint.end_step()
    woken = place.woken
    assert not place.constraint.begin_step(ord("a"))
    place.masking.work()
    assert place.woken == woken + 1
    assert place.constraint.begin_step(ord("a"))


def test_a_grammar_that_cannot_be_compiled_is_an_error_of_its_row(tmp_path: Path) -> None:
    place = Place(tmp_path, "start: other")
    place.compiling.work()
    with pytest.raises(GrammarError):
        place.constraint.begin_step(PROMPTS_LAST)


def test_a_mask_that_does_not_come_is_an_error_of_its_row(place: Place, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MASK_TIMEOUT_S", 0.0)
    place.compiling.work()
    place.constraint.begin_step(PROMPTS_LAST)
    with pytest.raises(GrammarError, match="a mask took more than"):
        place.constraint.allowed()


def test_a_token_that_the_grammar_does_not_have_is_an_error_of_its_row(place: Place, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "SLOW_MASK_S", 60.0)
    place.compiling.work()
    place.constraint.begin_step(PROMPTS_LAST)
    place.masking.work()
    place.constraint.end_step()
    place.constraint.begin_step(ord("q"))
    place.masking.work()
    with pytest.raises(GrammarError):
        place.constraint.allowed()


def test_close_gives_up_what_has_not_begun(tmp_path: Path) -> None:
    began = threading.Event()
    matching: Future[GrammarMatcher] = Future()
    constraint = Constraint(matching, Later(), began.set)
    constraint.close()
    assert matching.cancelled()
