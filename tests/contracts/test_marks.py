"""Courses thinned out to few marks: ends stay, order stays, and they decode at the other end."""

from hypothesis import given
from hypothesis import strategies as st

from prfaas.contracts.fields import Marks
from prfaas.contracts.marks import MAX_MARKS, CourseMarks
from prfaas.contracts.wire import decode, encode


@given(st.lists(st.integers(0, 10_000), max_size=700))
def test_a_course_of_any_length_fits_and_keeps_its_order_and_its_end(steps: list[int]) -> None:
    course, after_s, count, said = CourseMarks(), 0.0, 0.0, []
    for step in steps:
        after_s, count = after_s + step / 100, count + step
        course.add(after_s, count)
        said.append((after_s, count))
        assert course.marks()[-1] == said[-1]
    marks = course.marks()
    assert len(marks) <= MAX_MARKS
    assert list(marks) == sorted(marks) and set(marks) <= set(said)
    assert decode(encode(marks), Marks) == marks
    if len(said) < MAX_MARKS:
        assert list(marks) == said


def test_a_clock_that_goes_back_gives_no_negative_time() -> None:
    course = CourseMarks()
    course.add(-1.0, 5)
    assert course.marks() == ((0.0, 5),)
