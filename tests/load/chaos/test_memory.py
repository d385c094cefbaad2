import random

from load.chaos.memory import MIN_SAMPLES, Sample, growth


def samples(mib_per_hour: float, noise_mib: float) -> list[Sample]:
    source = random.Random(1)
    per_s = mib_per_hour * (1 << 20) / 3600.0
    return [
        Sample(2.0 * index, int(200e6 + per_s * 2.0 * index + source.gauss(0, noise_mib * (1 << 20))), 20)
        for index in range(10 * MIN_SAMPLES)
    ]


def test_a_slope_is_found_with_its_interval_around_it() -> None:
    found = growth("d0", 1, samples(mib_per_hour=60.0, noise_mib=0.5))
    assert abs(found.mib_per_hour - 60.0) < found.half_width_mib_per_hour + 1.0
    flat = growth("d0", 1, samples(mib_per_hour=0.0, noise_mib=0.5))
    assert abs(flat.mib_per_hour) < flat.half_width_mib_per_hour


def test_the_time_in_which_caches_fill_is_left_out() -> None:
    filling = samples(0.0, 0.0)
    early = [sample._replace(rss_bytes=sample.rss_bytes - (100 << 20)) for sample in filling[: len(filling) // 4]]
    assert growth("d0", 1, early + filling[len(early) :]).mib_per_hour == 0.0
