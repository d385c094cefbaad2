"""The gateway's knowledge of its schedulers, from answers and silences."""

from prfaas_gateway.scheduler_contact import FIRST_PATIENCE_S, TERM_KEPT_S, SchedulerContact


def test_silence_counts_from_the_first_question_without_an_answer() -> None:
    contact = SchedulerContact()
    assert contact.silent_s(100.0) == 0
    contact.handle_silence(10.0)
    contact.handle_absence(12.0)
    assert contact.silent_s(13.0) == 3.0
    contact.handle_answer()
    assert contact.silent_s(14.0) == 0
    contact.handle_absence(20.0)
    assert contact.silent_s(21.0) == 1.0


def test_patience_grows_with_answers_that_are_missed_and_not_with_absences() -> None:
    contact = SchedulerContact()
    contact.handle_absence(1.0)
    assert contact.patience_s(5.0) == FIRST_PATIENCE_S
    contact.handle_silence(1.0)
    contact.handle_silence(2.0)
    assert contact.patience_s(60.0) == 4 * FIRST_PATIENCE_S
    assert contact.patience_s(2.5) == 2.5
    contact.handle_answer()
    assert contact.patience_s(60.0) == FIRST_PATIENCE_S


def test_a_placement_of_an_earlier_leadership_does_not_count_until_terms_have_begun_anew() -> None:
    contact = SchedulerContact()
    assert contact.takes(7, 0.0) and contact.takes(7, 1.0)
    assert not contact.takes(6, 2.0)
    assert contact.takes(8, 3.0)
    assert contact.takes(1, 3.0 + TERM_KEPT_S)
