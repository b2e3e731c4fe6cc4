"""Rigid transforms: group laws, quaternions against scipy, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy import ndarray
from scipy.spatial.transform import Rotation

from geometry.se3 import SE3, quat_from_rotation, rotation_from_quat

numbers = st.floats(-100, 100)
vectors = arrays(np.float64, 3, elements=numbers)
quats = arrays(np.float64, 4, elements=st.floats(-1, 1)).filter(lambda q: np.linalg.norm(q) > 1e-3)
poses = st.builds(SE3.from_quat, quats, vectors)
points = arrays(np.float64, st.tuples(st.integers(0, 5), st.just(3)), elements=numbers)


def close(first: SE3, second: SE3) -> None:
    np.testing.assert_allclose(first.matrix, second.matrix, atol=1e-9)


@given(poses)
def test_inverse_undoes(pose: SE3) -> None:
    close(pose @ pose.inverse(), SE3.identity())
    close(pose.inverse() @ pose, SE3.identity())
    close(pose.inverse().inverse(), pose)


@given(poses, poses, poses)
def test_composition_is_associative_and_is_that_of_matrices(a: SE3, b: SE3, c: SE3) -> None:
    close((a @ b) @ c, a @ (b @ c))
    np.testing.assert_allclose((a @ b).matrix, a.matrix @ b.matrix, atol=1e-9)
    close((a @ b).inverse(), b.inverse() @ a.inverse())


@given(poses, poses, points)
def test_applying_follows_composition_and_keeps_distances(a: SE3, b: SE3, xyz: ndarray) -> None:
    np.testing.assert_allclose((a @ b).apply(xyz), a.apply(b.apply(xyz)), atol=1e-9)
    np.testing.assert_allclose(a.inverse().apply(a.apply(xyz)), xyz, atol=1e-9)
    homogeneous = np.hstack([xyz, np.ones((len(xyz), 1))]) @ a.matrix.T
    np.testing.assert_allclose(a.apply(xyz), homogeneous[:, :3], atol=1e-9)


def test_rotation_comes_before_translation() -> None:
    quarter = SE3.from_yaw(np.pi / 2, np.array([10.0, 0.0, 0.0]))  # x turns into y, then 10 m along x
    np.testing.assert_allclose(quarter.apply(np.array([[1.0, 0.0, 5.0]])), [[10.0, 1.0, 5.0]], atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_keep_their_dtype(dtype: type) -> None:
    assert SE3.from_yaw(0.3, np.ones(3)).apply(np.ones((2, 3), dtype)).dtype == dtype


@given(quats)
def test_quaternion_there_and_back(quat: ndarray) -> None:
    unit = quat / np.linalg.norm(quat)
    back = SE3.from_quat(quat, np.zeros(3)).quat_wxyz
    assert back[0] >= 0
    assert np.linalg.norm(back) == pytest.approx(1)
    assert min(np.abs(back - unit).max(), np.abs(back + unit).max()) < 1e-7


@given(quats)
def test_rotation_is_scipys(quat: ndarray) -> None:
    expected = Rotation.from_quat(quat, scalar_first=True)
    np.testing.assert_allclose(rotation_from_quat(quat), expected.as_matrix(), atol=1e-12)
    close(SE3.from_quat(-quat, np.zeros(3)), SE3.from_quat(quat, np.zeros(3)))


@pytest.mark.parametrize("axis", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -2, 3]])
@pytest.mark.parametrize("angle", [0, 1e-9, np.pi / 2, np.pi - 1e-9, np.pi])
def test_quaternions_of_hard_angles(axis: list[float], angle: float) -> None:
    rotation = Rotation.from_rotvec(angle * np.array(axis) / np.linalg.norm(axis)).as_matrix()
    np.testing.assert_allclose(rotation_from_quat(quat_from_rotation(rotation)), rotation, atol=1e-9)


@given(st.floats(-10, 10))
def test_yaw_turns_about_up(yaw: float) -> None:
    expected = Rotation.from_euler("z", yaw).as_matrix()
    np.testing.assert_allclose(SE3.from_yaw(yaw, np.zeros(3)).rotation, expected, atol=1e-12)


@given(poses)
def test_matrix_there_and_back_from_3x4_and_4x4(pose: SE3) -> None:
    close(SE3.from_matrix(pose.matrix), pose)
    close(SE3.from_matrix(pose.matrix[:3]), pose)


def test_noise_of_text_files_is_projected_away() -> None:
    clean = SE3.from_quat(np.array([0.9, 0.1, -0.3, 0.2]), np.array([1.0, 2, 3]))
    noisy = SE3.from_matrix(clean.matrix.round(4))
    np.testing.assert_allclose(noisy.rotation @ noisy.rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(noisy.matrix, clean.matrix, atol=2e-4)


def test_a_transform_is_a_value() -> None:
    rotation, translation = np.eye(3), np.zeros(3)
    pose = SE3(rotation, translation)
    rotation[0, 0], translation[0] = 5, 5
    close(pose, SE3.identity())
    with pytest.raises(ValueError, match="read-only"):
        pose.rotation[0, 0] = 2


@pytest.mark.parametrize(
    ("rotation", "translation", "text"),
    [
        (np.diag([1.0, 1, -1]), np.zeros(3), "not a rotation"),  # a mirror
        (2 * np.eye(3), np.zeros(3), "not a rotation"),
        (np.eye(3) + 2e-4 * np.eye(3), np.zeros(3), "limit 0.0001"),
        (np.full((3, 3), np.nan), np.zeros(3), "NaN or infinity"),
        (np.eye(3), np.array([0, 0, np.inf]), "NaN or infinity"),
    ],
)
def test_bad_transforms(rotation: ndarray, translation: ndarray, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SE3(rotation, translation)


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (np.diag([1.02, 1, 1, 1]), "not rigid"),
        (np.diag([1.0, 1, -1, 1]), "not rigid"),
        (np.zeros((4, 4)), "not rigid"),
        (np.full((4, 4), np.nan), "finite 3x4 or 4x4"),
        (np.eye(5)[:, :4], "finite 3x4 or 4x4"),
    ],
)
def test_bad_matrices(matrix: ndarray, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SE3.from_matrix(matrix)


@pytest.mark.parametrize("quat", [[0, 0, 0, 0], [np.nan, 0, 0, 1], [np.inf, 0, 0, 0]])
def test_bad_quaternions(quat: list[float]) -> None:
    with pytest.raises(ValueError, match="finite and not zero"):
        rotation_from_quat(np.array(quat, dtype=float))
