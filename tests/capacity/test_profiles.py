from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.capacity.builtin import KV_RATES, PROFILES, builtin_profile
from prfaas.capacity.profiles import DecodePoint, PrefillPoint, Profile, ProfileError


def line(*points: tuple[int, float, float], decode: tuple[tuple[int, float], ...] = (), batch_limit: int = 0) -> Profile:
    return Profile(
        name="test",
        source="made up",
        prefill=tuple(PrefillPoint(tokens=tokens, prefill_s=prefill_s, kv_bytes=kv) for tokens, prefill_s, kv in points),
        decode=tuple(DecodePoint(batch=batch, step_s=step_s) for batch, step_s in decode),
        batch_limit=batch_limit,
    )


def test_measured_points_come_back_and_the_line_between_them() -> None:
    profile = line((100, 1.0, 10.0), (200, 3.0, 30.0), (400, 5.0, 40.0))
    assert [profile.prefill_s(tokens) for tokens in (100, 150, 200, 300, 400)] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [profile.kv_bytes(tokens) for tokens in (100, 150, 200, 300, 400)] == [10, 20, 30, 35, 40]


def test_beyond_the_ends_the_outer_lines_go_on() -> None:
    profile = line((100, 1.0, 10.0), (200, 1.5, 12.0), (400, 5.5, 40.0))
    assert profile.prefill_s(0) == pytest.approx(0.5)
    assert profile.prefill_s(500) == pytest.approx(7.5)
    assert profile.kv_bytes(500) == pytest.approx(54)


def test_a_steep_line_does_not_fall_below_the_first_points_part() -> None:
    profile = line((100, 1.0, 10.0), (200, 3.0, 30.0))
    assert profile.prefill_s(50) == pytest.approx(0.5)
    assert profile.kv_bytes(10) == pytest.approx(1.0)


def test_what_is_computed_attends_to_what_is_cached() -> None:
    profile = line((100, 1.0, 10.0), (200, 1.5, 12.0), (400, 5.5, 40.0))
    assert profile.rest_s(300, 0) == profile.prefill_s(300)
    assert profile.rest_s(300, 200) == pytest.approx(3.5 - 1.5 + 0.5), "with the part that every prefill takes"
    dented = line((100, 1.0, 10.0), (200, 5.0, 12.0), (400, 5.5, 40.0))
    assert dented.rest_s(400, 200) == dented.prefill_s(200), "no less than without anything before"


@given(st.floats(min_value=0.001, max_value=1e6))
def test_built_in_profiles_are_positive_everywhere(tokens: float) -> None:
    for profile in PROFILES.values():
        assert profile.prefill_s(tokens) > 0
        assert profile.kv_bytes(tokens) > 0


def test_kv_rate_is_equation_1() -> None:
    profile = line((1000, 2.0, 1e9), (2000, 4.0, 2e9))
    assert profile.kv_gbit_s(1500) == pytest.approx(4.0)


@pytest.mark.parametrize(("thousand", "gbit_s"), [(1, 3.61), (8, 3.59), (32, 3.19), (128, 2.62)])
def test_table_5s_kv_rates_follow_from_its_other_columns(thousand: int, gbit_s: float) -> None:
    """Compares to 1 %: the paper's times are rounded to 10 ms."""
    assert builtin_profile("paper-1t-h200").kv_gbit_s(thousand * 1024) == pytest.approx(gbit_s, rel=0.01)


def test_the_largest_batch_that_keeps_the_slo() -> None:
    profile = line((1, 1, 1), (2, 2, 2), decode=((1, 0.010), (11, 0.020), (31, 0.040)))
    assert profile.batch_max(100) == 1
    assert profile.batch_max(50) == 11
    assert profile.batch_max(40) == 16
    assert profile.batch_max() == 31
    assert profile.batch_max(200) == 0


def test_memory_limits_the_batch() -> None:
    assert line((1, 1, 1), (2, 2, 2), decode=((1, 0.010), (31, 0.040)), batch_limit=8).batch_max() == 8


def test_a_step_of_exactly_the_slo_keeps_it() -> None:
    assert builtin_profile("paper-1t-h20").batch_max(40) == 20


def test_a_machine_without_decode_points_says_so() -> None:
    with pytest.raises(ProfileError, match="can only prefill"):
        builtin_profile("paper-1t-h200").batch_max(40)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (((1, 1.0, 1.0),), "at least 2"),
        (((2, 1.0, 1.0), (1, 2.0, 2.0)), "must rise"),
        (((1, 1.0, 1.0), (1, 2.0, 2.0)), "must rise"),
        (((1, 0.0, 1.0), (2, 2.0, 2.0)), "prefill_s must be positive"),
        (((1, 1.0, float("nan")), (2, 2.0, 2.0)), "kv_bytes must be positive"),
    ],
)
def test_unusable_points_are_refused(points: tuple[tuple[int, float, float], ...], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        line(*points)


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    for profile in PROFILES.values():
        profile.save(tmp_path / "profile.json")
        assert Profile.load(tmp_path / "profile.json") == profile


def test_a_file_with_an_unknown_field_or_bad_points_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    good = msgspec.to_builtins(builtin_profile("paper-1t-h20"))
    path.write_bytes(msgspec.json.encode({**good, "prefil": []}))
    with pytest.raises(ProfileError, match=r"profile\.json.*prefil"):
        Profile.load(path)
    path.write_bytes(msgspec.json.encode({**good, "prefill": good["prefill"][:1]}))
    with pytest.raises(ProfileError, match="at least 2"):
        Profile.load(path)
    with pytest.raises(ProfileError, match="cannot be read"):
        Profile.load(tmp_path / "none.json")


def test_slowed_changes_the_time_and_says_that_it_is_assumed() -> None:
    fast = builtin_profile("minimax-m2.5-h200")
    slow = fast.slowed(2.6, "slow")
    assert slow.prefill_s(30_000) == pytest.approx(2.6 * fast.prefill_s(30_000))
    assert slow.kv_bytes(30_000) == fast.kv_bytes(30_000)
    assert slow.source.startswith("Assumed")


@pytest.mark.parametrize(("model", "ratio"), [("mimo-v2-flash", 13), ("qwen3.5-397b", 4)])
def test_table_3_says_what_section_2_2_reads_from_it(model: str, ratio: float) -> None:
    dense = {"mimo-v2-flash": "minimax-m2.5", "qwen3.5-397b": "qwen3-235b"}[model]
    assert KV_RATES[dense].kv_gbit_s(32_768) / KV_RATES[model].kv_gbit_s(32_768) == pytest.approx(ratio, rel=0.05)


def test_kv_rates_are_read_between_the_points_and_held_beyond() -> None:
    rates = KV_RATES["ring-2.5-1t"]
    assert rates.kv_gbit_s(4608) == pytest.approx((7.27 + 4.47) / 2)
    assert (rates.kv_gbit_s(1), rates.kv_gbit_s(1e6)) == (7.27, 1.46)


def test_a_rate_and_a_cache_size_make_a_profile_with_that_rate() -> None:
    for tokens, gbit_s in KV_RATES["minimax-m2.5"].points:
        assert builtin_profile("minimax-m2.5-h200").kv_gbit_s(tokens) == pytest.approx(gbit_s)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ProfileError, match="paper-1t-h20"):
        builtin_profile("h100")
