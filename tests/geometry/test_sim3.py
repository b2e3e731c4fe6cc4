"""Similarities: group laws, Umeyama there and back, outliers, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy import ndarray

from geometry import SE3, Sim3, robust_sim3

vectors = arrays(np.float64, 3, elements=st.floats(-100, 100))
quats = arrays(np.float64, 4, elements=st.floats(-1, 1)).filter(lambda q: np.linalg.norm(q) > 1e-3)
scales = st.floats(0.1, 10)
similarities = st.builds(Sim3.from_se3, st.builds(SE3.from_quat, quats, vectors), scales)
points = arrays(np.float64, st.tuples(st.integers(0, 5), st.just(3)), elements=st.floats(-100, 100))
CORNERS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 3, 5]])
KNOWN = Sim3.from_se3(SE3.from_quat(np.array([0.9, 0.1, -0.3, 0.2]), np.array([10.0, -20, 3])), 1.03)


def close(first: Sim3, second: Sim3, atol: float = 1e-8) -> None:
    np.testing.assert_allclose(first.matrix, second.matrix, atol=atol, rtol=1e-9)


@given(similarities)
def test_inverse_undoes(a: Sim3) -> None:
    close(a @ a.inverse(), Sim3.identity())
    close(a.inverse() @ a, Sim3.identity())
    close(a.inverse().inverse(), a)


@given(similarities, similarities, similarities)
def test_composition_is_associative_and_is_that_of_matrices(a: Sim3, b: Sim3, c: Sim3) -> None:
    close((a @ b) @ c, a @ (b @ c), atol=1e-7)
    np.testing.assert_allclose((a @ b).matrix, a.matrix @ b.matrix, atol=1e-8)
    close((a @ b).inverse(), b.inverse() @ a.inverse(), atol=1e-7)


@given(similarities, similarities, points)
def test_applying_follows_composition(a: Sim3, b: Sim3, xyz: ndarray) -> None:
    np.testing.assert_allclose((a @ b).apply(xyz), a.apply(b.apply(xyz)), atol=1e-8)
    homogeneous = np.hstack([xyz, np.ones((len(xyz), 1))]) @ a.matrix.T
    np.testing.assert_allclose(a.apply(xyz), homogeneous[:, :3], atol=1e-8)


@given(similarities)
def test_lengths_scale(a: Sim3) -> None:
    length = np.linalg.norm(np.diff(a.apply(CORNERS), axis=0), axis=1)
    np.testing.assert_allclose(length, a.scale * np.linalg.norm(np.diff(CORNERS, axis=0), axis=1), rtol=1e-9)


def test_scale_and_rotation_come_before_translation() -> None:
    quarter = Sim3.from_se3(SE3.from_yaw(np.pi / 2, np.array([10.0, 0.0, 0.0])), 3.0)
    np.testing.assert_allclose(quarter.apply(np.array([[1.0, 0.0, 5.0]])), [[10.0, 3.0, 15.0]], atol=1e-12)


def test_points_keep_their_dtype() -> None:
    assert KNOWN.apply(np.ones((2, 3), np.float32)).dtype == np.float32


@given(similarities, st.permutations(range(5)))
def test_umeyama_recovers(a: Sim3, order: list[int]) -> None:
    close(Sim3.from_points(CORNERS[order], a.apply(CORNERS[order])), a, atol=1e-7)


@given(similarities)
def test_umeyama_recovers_from_a_plane(a: Sim3) -> None:
    close(Sim3.from_points(CORNERS[:3], a.apply(CORNERS[:3])), a, atol=1e-7)


def test_umeyama_never_mirrors() -> None:
    mirrored = CORNERS * [1, 1, -1]
    assert np.linalg.det(Sim3.from_points(CORNERS, mirrored).rotation) == pytest.approx(1)


def test_weights_are_repetitions() -> None:
    noisy = KNOWN.apply(CORNERS) + np.random.default_rng(0).normal(0, 0.1, CORNERS.shape)
    repeats = np.array([1, 2, 3, 0, 2])
    rows = np.repeat(np.arange(5), repeats)
    close(Sim3.from_points(CORNERS, noisy, repeats.astype(float)), Sim3.from_points(CORNERS[rows], noisy[rows]))


def test_umeyama_is_the_least_squares_optimum() -> None:
    rng = np.random.default_rng(1)
    target = KNOWN.apply(CORNERS) + rng.normal(0, 0.1, CORNERS.shape)
    best = Sim3.from_points(CORNERS, target)
    cost = lambda a: float(((a.apply(CORNERS) - target) ** 2).sum())  # noqa: E731
    for _ in range(50):
        nudge = SE3.from_quat(np.array([1.0, *rng.normal(0, 0.01, 3)]), rng.normal(0, 0.01, 3))
        assert cost(Sim3.from_se3(nudge, float(np.exp(rng.normal(0, 0.01)))) @ best) >= cost(best)


def test_a_camera_sees_the_same_after_the_move() -> None:
    pose = SE3.from_quat(np.array([0.5, 0.5, -0.5, 0.5]), np.array([1.0, 2, 3]))
    before = pose.inverse().apply(CORNERS)
    after = KNOWN.apply_pose(pose).inverse().apply(KNOWN.apply(CORNERS))
    np.testing.assert_allclose(after, KNOWN.scale * before, atol=1e-9)


def test_robust_leaves_out_wrong_pairs() -> None:
    rng = np.random.default_rng(3)
    source = rng.uniform(-50, 50, (60, 3))
    target = KNOWN.apply(source) + rng.normal(0, 0.02, source.shape)
    wrong = np.arange(60) % 5 < 2  # 40 % of the pairs
    target[wrong] += rng.uniform(5, 50, (wrong.sum(), 3))
    found, agree = robust_sim3(source, target, 0.2, seed=7)
    np.testing.assert_array_equal(agree, ~wrong)
    close(found, Sim3.from_points(source[~wrong], target[~wrong]))
    close(found, robust_sim3(source, target, 0.2, seed=7)[0])
    assert np.linalg.norm(found.apply(source) - KNOWN.apply(source), axis=1).max() < 0.05


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        (CORNERS[:2], CORNERS[:2], "needs three"),
        (np.full((4, 3), np.nan), CORNERS[:4], "NaN or infinity"),
        (np.outer(np.arange(4.0), np.ones(3)), CORNERS[:4], "source points lie on a line"),
        (CORNERS[:4], np.zeros((4, 3)), "target points lie on a line"),
    ],
)
def test_bad_pairs(source: ndarray, target: ndarray, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Sim3.from_points(source, target)


def test_bad_weights() -> None:
    with pytest.raises(ValueError, match="not be negative"):
        Sim3.from_points(CORNERS, CORNERS, np.array([1.0, 1, 1, 1, -1]))


def test_nothing_agrees() -> None:
    rng = np.random.default_rng(0)
    places, line = rng.normal(size=(6, 3)), np.outer(np.arange(6.0), np.ones(3))
    with pytest.raises(ValueError, match="no three of 6 pairs"):
        robust_sim3(places, rng.normal(size=(6, 3)), 1e-3)
    with pytest.raises(ValueError, match="source points lie on a line"):
        robust_sim3(line, places, 0.1)
    with pytest.raises(ValueError, match="threshold_m"):
        robust_sim3(line, line, 0.0)


def test_noise_does_not_decide_how_a_straight_street_is_rolled() -> None:
    """Forty places along 40 m: what they are off the line by is noise, and with a bend of 8 m it is not."""
    rng, along_m = np.random.default_rng(1), np.linspace(0, 40, 40)
    straight = np.stack([along_m, np.zeros(40), np.zeros(40)], axis=1)
    with pytest.raises(ValueError, match="nearly on a line"):
        robust_sim3(straight + rng.normal(0, 0.02, (40, 3)), straight + rng.normal(0, 0.3, (40, 3)), 1.0)
    bent = straight + np.stack([np.zeros(40), np.where(along_m > 20, 8.0, 0.0), np.zeros(40)], axis=1)
    found, _ = robust_sim3(bent, bent + rng.normal(0, 0.3, (40, 3)), 1.0)
    assert np.degrees(np.arccos((np.trace(found.rotation) - 1) / 2)) < 5


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_bad_scales(scale: float) -> None:
    with pytest.raises(ValueError, match="finite and positive"):
        Sim3(np.eye(3), np.zeros(3), scale)
