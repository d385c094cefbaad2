"""Schedules, driven by a simulated clock."""

from collections import defaultdict
from heapq import heappop, heappush

import hypothesis.strategies as st
from hypothesis import given

from prfaas.replay.arrival import Arrival
from prfaas.replay.schedule import Due, Schedule, TimedSchedule, UserSchedule, sessions_of, shard


def run(schedule: Schedule, answer_s: float) -> list[tuple[float, Due]]:
    """Plays a schedule in which every answer takes `answer_s`; returns (moment of sending, request) in order."""
    now_s = 0.0
    under_way: list[tuple[float, int, Due]] = []
    sent: list[tuple[float, Due]] = []
    while True:
        due = schedule.peek()
        if due is None and not under_way:
            return sent
        if under_way and (due is None or under_way[0][0] <= due.due_s):
            now_s, _, over = heappop(under_way)
            schedule.answered(over, now_s)
            continue
        assert due is not None
        now_s = max(now_s, due.due_s)
        assert schedule.pop() == due
        sent.append((now_s, due))
        heappush(under_way, (now_s + answer_s, due.number, due))


ARRIVALS = st.lists(
    st.tuples(st.floats(0, 100), st.sampled_from(["", "a", "b", "a/1"]), st.floats(0, 20)), min_size=1, max_size=40
).map(lambda rows: [Arrival(at, 5, 5, session=session, think_s=think) for at, session, think in sorted(rows)])


@given(ARRIVALS, st.floats(0, 30))
def test_every_request_leaves_once_and_turns_keep_their_order(arrivals: list[Arrival], answer_s: float) -> None:
    sent = run(TimedSchedule(enumerate(arrivals)), answer_s)
    assert sorted(due.number for _, due in sent) == list(range(len(arrivals)))
    last: dict[str, float] = {}
    for at_s, due in sorted(sent, key=lambda each: each[1].number):
        arrival = due.arrival
        if not arrival.session:
            assert due.due_s == arrival.arrival_s
            continue
        earliest_s = arrival.arrival_s
        if arrival.session in last:
            earliest_s = max(earliest_s, last[arrival.session] + answer_s + arrival.think_s)
        assert abs(due.due_s - earliest_s) < 1e-6
        last[arrival.session] = at_s


@given(ARRIVALS, st.floats(0, 30))
def test_on_a_fixed_schedule_no_request_waits(arrivals: list[Arrival], answer_s: float) -> None:
    sent = run(TimedSchedule(enumerate(arrivals), fixed=True), answer_s)
    assert [due.due_s for _, due in sent] == [arrival.arrival_s for arrival in arrivals]


def test_a_workload_is_read_no_further_than_it_is_due() -> None:
    read = []

    def arrivals() -> object:
        for place in range(10):
            read.append(place)
            yield place, Arrival(float(place), 1, 1)

    schedule = TimedSchedule(arrivals())  # type: ignore[arg-type]
    schedule.peek()
    assert read == [0]
    schedule.pop()
    schedule.peek()
    assert read == [0, 1]


@given(ARRIVALS, st.integers(1, 5), st.floats(0.1, 30), st.booleans())
def test_users_work_through_all_sessions_and_never_more_at_a_time(
    arrivals: list[Arrival], users: int, answer_s: float, one_clock: bool
) -> None:
    sessions = sessions_of(enumerate(arrivals), one_clock=True)
    sent = run(UserSchedule(sessions, starts_s=[0.0] * users, one_clock=one_clock, end_s=None), answer_s)
    assert sorted(due.number for _, due in sent) == list(range(len(arrivals)))
    spans: dict[str, list[float]] = defaultdict(list)
    for at_s, due in sent:
        spans[due.chain.partition("/")[0]] += [at_s, at_s + answer_s]
    for moment_s in {min(span) for span in spans.values()}:
        assert sum(min(span) <= moment_s < max(span) for span in spans.values()) <= users


def test_without_a_common_clock_only_answers_and_pauses_count() -> None:
    turns = [Arrival(at, 5, 5, session="a", think_s=2.0) for at in (100.0, 200.0, 900.0)]
    sessions = sessions_of(enumerate(turns), one_clock=False)
    sent = run(UserSchedule(sessions, starts_s=[1.0], one_clock=False, end_s=None), answer_s=3.0)
    assert [at_s for at_s, _ in sent] == [1.0, 6.0, 11.0]


def test_a_sub_agent_begins_at_its_place_in_the_session() -> None:
    turns = [Arrival(10.0, 5, 5, session="a"), Arrival(14.0, 5, 5, session="a/1"), Arrival(90.0, 5, 5, session="a")]
    sessions = sessions_of(enumerate(turns), one_clock=False)
    sent = run(UserSchedule(sessions, starts_s=[0.0], one_clock=False, end_s=None), answer_s=1.0)
    assert [(at_s, due.chain) for at_s, due in sent] == [(0.0, "a"), (1.0, "a"), (4.0, "a/1")]


def test_users_end_at_the_end() -> None:
    arrivals = [Arrival(0.0, 5, 5) for _ in range(100)]
    sessions = sessions_of(enumerate(arrivals), one_clock=True)
    sent = run(UserSchedule(sessions, starts_s=[0.0, 0.5], one_clock=True, end_s=10.0), answer_s=1.0)
    assert len(sent) == 20 and max(at_s for at_s, _ in sent) < 10.0


@given(ARRIVALS, st.integers(1, 4))
def test_clients_share_the_work_and_keep_sessions_whole(arrivals: list[Arrival], parts: int) -> None:
    shards = [list(shard(arrivals, part, parts)) for part in range(parts)]
    assert sorted(number for each in shards for number, _ in each) == list(range(len(arrivals)))
    for session in ("a", "b"):
        holders = [each for each in shards if any(arrival.session.partition("/")[0] == session for _, arrival in each)]
        assert len(holders) <= 1
