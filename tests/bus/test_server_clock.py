"""Age of a job: told by the clock of the server that stamped it, whatever the clock of the host that takes it says."""

import time
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from prfaas.bus.job_consumer import JobConsumer
from prfaas.bus.jobs import JobQueue
from prfaas.bus.server_clock import MEASURED_FOR_S, WARN_SKEW_S, ServerClock
from prfaas.telemetry.wall_clock import shift_for_test
from tests.bus.conftest import Connect
from tests.bus.jobs_at_hand import DEADLINE_S, HOME, MODEL, SERVES, SITE, make_job, take


@pytest.fixture(autouse=True)
def own_clock() -> Iterator[None]:
    yield
    shift_for_test(0.0)


@pytest.mark.parametrize("ahead_s", [20.0, -20.0, 86_400.0])
async def test_a_host_whose_clock_is_off_takes_jobs_for_as_old_as_they_are_and_says_so(connect: Connect, ahead_s: float) -> None:
    shift_for_test(ahead_s)
    bus, began_at = await connect(), time.monotonic()
    with capture_logs() as logs:
        consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    await JobQueue(bus).submit(SITE, make_job(timeout_s=10.0), timeout_s=DEADLINE_S)
    taken = await take(consumer)
    assert 0.0 <= taken.age_s <= time.monotonic() - began_at
    assert consumer.clock.skew_s == pytest.approx(ahead_s, abs=WARN_SKEW_S)
    assert [line["log_level"] for line in logs if line["event"] == "clock_skew"] == ["warning"]
    await taken.ack()


async def test_a_clock_that_is_set_while_the_process_runs_changes_no_age(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    began_at = time.monotonic()
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    taken = await take(consumer)
    shift_for_test(20.0)
    assert 0.0 <= taken.age_s <= time.monotonic() - began_at
    assert consumer.clock.skew_s == pytest.approx(20.0, abs=WARN_SKEW_S)
    await taken.ack()


def _outdated(clock: ServerClock) -> bool:
    """Reads the property anew: mypy takes it for a value that no call changes."""
    return clock.outdated


async def test_a_server_whose_clock_was_set_is_asked_again_at_once(connect: Connect) -> None:
    bus, clock = await connect(), ServerClock()
    await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    await clock.keep(bus, f"JOBS_{SITE}--{HOME}")
    assert not _outdated(clock) and MEASURED_FOR_S > 0
    clock.handle_stamp(clock.unix_s)
    assert not _outdated(clock)
    clock.handle_stamp(clock.unix_s + 20.0)
    assert _outdated(clock)
    await clock.keep(bus, f"JOBS_{SITE}--{HOME}")
    assert not _outdated(clock)
