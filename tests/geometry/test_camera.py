"""The pinhole camera: projection by hand, and rays that lead back to what was projected."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy import ndarray

from geometry import SE3, Camera

vectors = arrays(np.float64, 3, elements=st.floats(-50, 50))
quats = arrays(np.float64, 4, elements=st.floats(-1, 1)).filter(lambda q: np.linalg.norm(q) > 1e-3)
cameras = st.builds(
    Camera,
    st.builds(SE3.from_quat, quats, vectors),
    st.floats(1, 500),
    st.floats(1, 500),
    st.floats(-5, 20),
    st.floats(-5, 20),
    st.integers(1, 9),
    st.integers(1, 7),
)


def simple(**fields: float) -> Camera:
    values = {"fx_px": 100.0, "fy_px": 200.0, "cx_px": 8.0, "cy_px": 6.0, "width_px": 16, "height_px": 12, **fields}
    return Camera(SE3.identity(), **values)


def test_projection_by_hand() -> None:
    points_px, depth_m = simple().project(np.array([[0.0, 0, 5], [1, 0, 4], [0, 1, 4], [0, 0, -2]]))
    np.testing.assert_allclose(points_px[:3], [[8, 6], [8 + 100 / 4, 6], [8, 6 + 200 / 4]])
    assert depth_m.tolist() == [5, 4, 4, -2]


def test_projection_uses_the_pose() -> None:
    # The camera stands at (1, 2, 3) and looks along the world's x: its right is -y, its down is -z.
    rotation = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    camera = Camera(SE3(rotation, np.array([1.0, 2, 3])), 100.0, 100.0, 8.0, 6.0, 16, 12)
    points_px, depth_m = camera.project(np.array([[11.0, 2, 3], [11, 1, 3], [11, 2, 4]]))
    np.testing.assert_allclose(points_px, [[8, 6], [18, 6], [8, -4]])
    np.testing.assert_allclose(depth_m, 10)


def test_intrinsics_are_the_matrix_of_the_projection() -> None:
    camera, point = simple(), np.array([0.3, -0.2, 4.0])
    u, v, depth = camera.intrinsics @ point
    np.testing.assert_allclose(camera.project(point[None])[0][0], [u / depth, v / depth])


def test_points_in_the_plane_of_the_camera_stay_finite() -> None:
    points_px, depth_m = simple().project(np.array([[1.0, 1, 0]]))
    assert np.isfinite(points_px).all()
    assert depth_m.tolist() == [0]


@given(cameras, st.floats(0.1, 100))
def test_points_on_a_pixels_ray_project_to_its_middle_at_their_depth(camera: Camera, depth: float) -> None:
    origin, directions = camera.rays_world()
    assert directions.shape == (camera.height_px, camera.width_px, 3)
    points_px, depth_m = camera.project((origin + depth * directions).reshape(-1, 3))
    np.testing.assert_allclose(depth_m, depth, rtol=1e-6, atol=1e-9)
    columns, rows = np.meshgrid(np.arange(camera.width_px) + 0.5, np.arange(camera.height_px) + 0.5)
    np.testing.assert_allclose(points_px, np.stack([columns, rows], -1).reshape(-1, 2), atol=1e-4)


@given(cameras, st.integers(1, 40), st.integers(1, 40), vectors)
def test_resizing_scales_image_coordinates(camera: Camera, width: int, height: int, point: ndarray) -> None:
    resized = camera.resized(width, height)
    assert (resized.width_px, resized.height_px) == (width, height)
    (before, depth), (after, depth_after) = camera.project(point[None]), resized.project(point[None])
    np.testing.assert_array_equal(depth, depth_after)
    scale = np.array([width / camera.width_px, height / camera.height_px])
    np.testing.assert_allclose(after, before * scale, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("field", ["fx_px", "fy_px", "width_px", "height_px"])
@pytest.mark.parametrize("value", [0, -1])
def test_focal_lengths_and_size_are_positive(field: str, value: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        simple(**{field: value})


@pytest.mark.parametrize("field", ["fx_px", "fy_px", "cx_px", "cy_px"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_intrinsics_are_finite(field: str, value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        simple(**{field: value})
