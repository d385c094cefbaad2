import random

from load.bench.versions.__main__ import Block, ratio


def test_a_request_costs_what_its_block_took_beyond_the_idle_time() -> None:
    block = Block(ttft_s=[0.1, 0.3, 0.2, 0.2], took_s=2.0, cpu_s={"gateway": 0.05, "probe": 0.01})
    idle = Block(ttft_s=[], took_s=10.0, cpu_s={"gateway": 0.05, "probe": 0.05}).idle_ms_per_s
    assert idle == {"gateway": 5.0, "probe": 5.0}
    assert block.request_ms(idle) == {"gateway": 10.0, "probe": 0.0}
    assert block.median_ttft_s == 0.2


def test_a_ratio_is_the_median_over_pairs_and_its_interval_holds_it() -> None:
    found = ratio([1.1, 2.2, 8.0], [1.0, 2.0, 4.0], random.Random(1))
    assert round(found.median, 9) == 1.1
    assert found.low <= found.median <= found.high == 2.0
