from load.bench.dispatch import decisions, hops


async def test_each_way_brings_its_jobs() -> None:
    found = await hops(3)
    assert [hop.way for hop in found] == ["queue", "alone", "dispatched"]
    assert all(0 < hop.p50_ms <= hop.p99_ms and hop.back_to_back_jobs_s > 0 for hop in found)


def test_as_many_jobs_wait_as_were_asked_for() -> None:
    found = decisions(workers=5, waiting_jobs=40, events=200)
    assert (found.workers, found.waiting_jobs) == (5, 40)
    assert 0 < found.p50_us <= found.p99_us <= found.worst_us
