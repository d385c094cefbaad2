"""Text is cut before the first stop string, wherever the parts of it end."""

import hypothesis.strategies as st
from hypothesis import given

from prfaas_decode_worker.stop_strings import StopMatcher

PARTS = st.lists(st.text("ab\n", max_size=3))
STOP = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


@given(PARTS, STOP)
def test_matcher_cuts_before_the_first_stop_string(parts: list[str], stop: list[str]) -> None:
    matcher, shown, stopped, whole = StopMatcher(stop), "", False, ""
    for part in parts:
        text, stopped = matcher.push(part)
        shown += text
        whole += part
        if stopped:
            break
    ends = [at for at in (whole.find(s) for s in stop) if at >= 0]
    if stopped:
        assert shown == whole[: min(ends)]
        assert matcher.met == next(s for s in stop if whole.startswith(s, min(ends)))
        assert matcher.flush() == ""
    else:
        assert matcher.met == ""
        assert not ends
        assert shown + matcher.flush() == whole


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1))
def test_matcher_holds_back_no_more_than_a_stop_string_could_need(parts: list[str]) -> None:
    matcher, shown = StopMatcher(["bbbb!"]), ""
    for count, part in enumerate(parts, 1):
        shown += matcher.push(part)[0]
        assert len("".join(parts[:count])) - len(shown) < len("bbbb!")


@given(PARTS, PARTS, STOP)
def test_a_stop_string_counts_only_where_it_ends_in_text_that_counts(
    exempt: list[str], counted: list[str], stop: list[str]
) -> None:
    matcher, shown, stopped = StopMatcher(stop), "", False
    for part in exempt:
        text, stopped = matcher.push(part, counts=False)
        shown += text
        assert not stopped
    border = len("".join(exempt))
    whole = "".join(exempt)
    for part in counted:
        text, stopped = matcher.push(part)
        shown += text
        whole += part
        if stopped:
            break
    starts = [at for s in stop for at in range(len(whole)) if whole.startswith(s, at) and at + len(s) > border]
    if stopped:
        assert shown == whole[: min(starts)]
    else:
        assert not starts
        assert shown + matcher.flush() == whole
