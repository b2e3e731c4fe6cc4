"""Pose graphs whose answer is known: chains, means of parallel edges, loops that spread what is left over."""

import itertools
import math

import numpy as np
import pytest
from numpy import ndarray

from geometry import SE3, Sim3
from recon.pose_graph import Edge, chained, difference, solve


def shifted(east_m: float) -> Sim3:
    return Sim3(np.eye(3), np.array([east_m, 0.0, 0.0]))


def random_sim3(rng: np.random.Generator) -> Sim3:
    return Sim3.from_se3(SE3.from_quat(rng.normal(size=4), rng.normal(size=3) * 10), float(np.exp(0.3 * rng.normal())))


def town(count: int = 5, seed: int = 0) -> dict[str, Sim3]:
    """Regions anywhere; the first is the world."""
    rng = np.random.default_rng(seed)
    return {str(number): random_sim3(rng) if number else Sim3.identity() for number in range(count)}


def edges_of(nodes: dict[str, Sim3]) -> list[Edge]:
    """All pairs, measured without error."""
    return [Edge(a, b, nodes[a].inverse() @ nodes[b]) for a, b in itertools.combinations(nodes, 2)]


def farthest(found: dict[str, Sim3], true: dict[str, Sim3]) -> float:
    return max(float(np.abs(difference(found[name], true[name])).max()) for name in true)


def east_m(found: dict[str, Sim3], name: str) -> float:
    return float(found[name].translation_m[0])


def test_exact_measurements_give_the_regions_back() -> None:
    true = town()
    assert farthest(solve(edges_of(true), "0"), true) < 1e-7


def test_the_fixed_region_stays_where_it_is_put() -> None:
    true, moved = town(), random_sim3(np.random.default_rng(5))
    found = solve(edges_of(true), "0", world_from_fixed=moved)
    assert farthest(found, {name: moved @ pose for name, pose in true.items()}) < 1e-7
    assert difference(found["0"], moved).tolist() == [0] * 7


def test_an_edge_may_be_measured_from_either_side() -> None:
    true = town()
    turned = [Edge(edge.b, edge.a, edge.a_from_b.inverse()) for edge in edges_of(true)]
    assert farthest(solve(turned, "0"), true) < 1e-7


def test_a_chain_is_followed_along_the_fewest_edges() -> None:
    edges = [Edge("a", "b", shifted(1)), Edge("b", "c", shifted(1)), Edge("a", "c", shifted(5))]
    assert east_m(chained(edges, "a"), "c") == 5
    assert east_m(chained(edges[:2], "c"), "a") == -2


def test_parallel_edges_are_averaged_by_their_variances() -> None:
    edges = [Edge("a", "b", shifted(1.0), sigma_m=0.1), Edge("a", "b", shifted(2.0), sigma_m=0.2)]
    found = solve(edges, "a", robust="linear")
    assert east_m(found, "b") == pytest.approx((1.0 / 0.01 + 2.0 / 0.04) / (1 / 0.01 + 1 / 0.04), abs=1e-9)


def test_a_loop_spreads_its_error_over_its_edges() -> None:
    measured = {("a", "b"): 1.0, ("b", "c"): 1.0, ("c", "a"): -2.3}
    edges = [Edge(a, b, shifted(metres), sigma_log_scale=1e-4) for (a, b), metres in measured.items()]
    found = solve(edges, "a", robust="linear")  # were scales looser, they would take up some of it
    assert east_m(found, "b") == pytest.approx(1.1, abs=1e-5)
    assert east_m(found, "c") == pytest.approx(2.2, abs=1e-5)


def test_a_loop_spreads_its_error_of_scale() -> None:
    def scaled(log_scale: float) -> Sim3:
        return Sim3(np.eye(3), np.zeros(3), math.exp(log_scale))

    edges = [Edge("a", "b", scaled(0.5)), Edge("b", "c", scaled(0.5)), Edge("c", "a", scaled(-1.3))]
    found = solve(edges, "a", robust="linear")
    assert [math.log(found[name].scale) for name in "bc"] == pytest.approx([0.6, 1.2], abs=1e-8)


def test_a_loop_spreads_its_error_of_heading() -> None:
    def turned(yaw_rad: float) -> Sim3:
        return Sim3.from_se3(SE3.from_yaw(yaw_rad, np.zeros(3)))

    edges = [Edge("a", "b", turned(1.0)), Edge("b", "c", turned(1.0)), Edge("c", "a", turned(-2.3))]
    found = solve(edges, "a", robust="linear")
    headings = [math.atan2(found[name].rotation[1, 0], found[name].rotation[0, 0]) for name in "bc"]
    assert headings == pytest.approx([1.1, 2.2], abs=1e-8)


def test_a_wrong_edge_is_outvoted_by_a_robust_loss() -> None:
    true = town()
    edges = edges_of(true)
    edges[1] = Edge(edges[1].a, edges[1].b, shifted(30.0) @ edges[1].a_from_b)
    assert farthest(solve(edges, "0", robust="cauchy"), true) < 0.02
    assert farthest(solve(edges, "0", robust="linear"), true) > 1


def test_the_order_of_edges_does_not_matter() -> None:
    rng, true = np.random.default_rng(1), town()
    noisy = [Edge(edge.a, edge.b, shifted(0.1 * rng.normal()) @ edge.a_from_b) for edge in edges_of(true)]
    found, again = solve(noisy, "0"), solve(noisy[::-1], "0")
    assert list(found) == list(again) == sorted(true)
    assert farthest(found, again) < 1e-5


def test_a_first_guess_may_be_given() -> None:
    true = town()
    start = {name: shifted(0.5) @ pose for name, pose in true.items()}
    assert farthest(solve(edges_of(true), "0", start=start), true) < 1e-7
    with pytest.raises(ValueError, match="start does not say where 1, 2, 3, 4 lie"):
        solve(edges_of(true), "0", start={"0": Sim3.identity()})


def test_a_single_region_needs_no_edges() -> None:
    assert list(solve([], "a")) == ["a"]


def test_a_first_guess_does_not_join_what_no_edge_does() -> None:
    edges = [Edge("a", "b", shifted(1.0)), Edge("c", "d", shifted(1.0))]
    with pytest.raises(ValueError, match="no edges lead from 'a' to c, d"):
        solve(edges, "a", start=dict.fromkeys("abcd", Sim3.identity()))


def test_regions_that_nothing_joins_are_named() -> None:
    with pytest.raises(ValueError, match="no edges lead from 'a' to c, d"):
        solve([Edge("a", "b", shifted(1)), Edge("c", "d", shifted(1))], "a")


@pytest.mark.parametrize(
    ("names", "sigma_m", "message"), [(("a", "a"), 1.0, "joins two regions"), (("a", "b"), 0.0, "sigma_m of 'a', 'b'")]
)
def test_edges_are_checked(names: tuple[str, str], sigma_m: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Edge(*names, shifted(1), sigma_m=sigma_m)


def test_difference_is_in_metres_of_the_first_frame() -> None:
    found: ndarray = difference(Sim3(np.eye(3), np.array([3.0, 0, 0]), 2.0), shifted(1.0))
    np.testing.assert_allclose(found, [0, 0, 0, math.log(2), 2, 0, 0], atol=1e-12)
