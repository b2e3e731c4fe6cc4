"""Simulated time: the arithmetic of a round, the spread over vehicles, the clock."""

import numpy as np
import pytest

from strategies.profile import PROFILES, Clock, Profile, ProfileConfig


def test_seconds_of_a_round_without_spread() -> None:
    # 80 examples at 40 / s; 8 Mbit down at 50 Mbit / s and up at 20 Mbit / s; two hops of 20 ms.
    assert Profile(ProfileConfig(), 0).round_s("v", 80, 1_000_000) == pytest.approx(2 + 0.16 + 0.4 + 0.04)


def test_seconds_of_the_backhaul() -> None:
    assert Profile(ProfileConfig(), 0).backhaul_s(1_000_000) == pytest.approx(2 * (0.08 + 0.02))


def test_a_straggler_computes_slower_and_has_the_same_link() -> None:
    config = ProfileConfig(straggler_share=1.0, straggler_slowdown=8.0)
    assert Profile(config, 0).round_s("v", 80, 1_000_000) == pytest.approx(8 * 2 + 0.16 + 0.4 + 0.04)


def test_a_vehicle_is_as_fast_whoever_else_is_asked() -> None:
    fleet = [f"vehicle-{i}" for i in range(6)]
    first, second = (Profile(PROFILES["stragglers"], 3) for _ in range(2))
    alone = {name: first.round_s(name, 100, 1000) for name in fleet}
    assert {name: second.round_s(name, 100, 1000) for name in reversed(fleet)} == alone
    assert [first.round_s(name, 100, 1000) for name in fleet] == list(alone.values())
    assert len(set(alone.values())) == len(fleet)


def test_the_seed_decides() -> None:
    times = {Profile(PROFILES["mixed"], seed).round_s("v", 100, 1000) for seed in range(5)}
    assert len(times) == 5


def test_spread_is_log_normal_with_the_given_sigma() -> None:
    profile = Profile(ProfileConfig(spread=0.4, latency_s=0.0), 0)
    logs = np.log([profile.round_s(f"v{i}", 40, 0) for i in range(1000)])
    # Standard errors: 0.4 / sqrt(1000) = 0.013 of the mean, 0.4 / sqrt(2000) = 0.009 of sigma; four of each.
    assert abs(logs.mean()) < 0.052
    assert abs(logs.std() - 0.4) < 0.036


def test_share_of_stragglers() -> None:
    profile = Profile(ProfileConfig(straggler_share=0.2, latency_s=0.0), 0)
    slow = np.mean([profile.round_s(f"v{i}", 40, 0) > 4 for i in range(1000)])
    assert abs(slow - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 1000)


def test_more_work_and_larger_models_take_longer() -> None:
    profile = Profile(PROFILES["stragglers"], 0)
    assert profile.round_s("v", 10, 1000) < profile.round_s("v", 20, 1000) < profile.round_s("v", 20, 2000)


def test_rsus_run_on_their_own_until_they_wait_for_the_slowest() -> None:
    clock = Clock().advance("a", 2.0).advance("a", 3.0).advance("b", 4.0)
    assert (dict(clock.at_s), clock.now_s) == ({"a": 5.0, "b": 4.0}, 5.0)
    assert dict(clock.synchronise(1.0).at_s) == {"a": 6.0, "b": 6.0}
    assert dict(clock.at_s) == {"a": 5.0, "b": 4.0}


def test_a_new_clock_shows_zero() -> None:
    assert Clock().now_s == 0.0
    assert dict(Clock().synchronise(1.0).at_s) == {}
