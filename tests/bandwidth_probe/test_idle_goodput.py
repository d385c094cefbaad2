from itertools import pairwise

from prfaas_bandwidth_probe.idle_goodput import IdleGoodput

RTT_S = 0.05
SHORT_BYTES_PER_S = 1e6
SHORT_TRAIN_BYTES = 10_000


def deep_trains(rate_at: dict[float, float], until_s: int) -> list[tuple[int, float]]:
    """Returns the moments of deep trains on an idle link, and what each showed. `rate_at`: bytes/s by the moment they begin."""
    idle, trains = IdleGoodput(link_share=0.05, most_bytes=1e9), list[tuple[int, float]]()
    for now_s in range(until_s):
        size_bytes = idle.due_bytes(now_s, RTT_S, SHORT_BYTES_PER_S, SHORT_TRAIN_BYTES)
        if size_bytes is not None:
            rate = [rate for begins_at, rate in rate_at.items() if begins_at <= now_s][-1]
            idle.measured(now_s, size_bytes, rate, SHORT_BYTES_PER_S)
            trains.append((now_s, idle.goodput_bytes_per_s(SHORT_BYTES_PER_S)))
    return trains


def test_a_link_that_has_fallen_is_asked_again_soon_and_one_that_has_risen_seldom() -> None:
    trains = deep_trains({0: 10e6, 100: 2e6, 650: 10e6}, until_s=3000)
    (found_at, _), *after = [(at, rate) for at, rate in trains if at > 100 and rate < 5e6]
    assert after, "while it is low it is asked again"
    risen = [at for at, rate in trains if at > found_at and rate > 5e6]
    assert risen[0] - 650 <= 62, "the pause after a fall is a minute"
    assert all(later - earlier > 60 for earlier, later in pairwise(risen[2:])), "then it is seldom again"
