"""Rigid transforms. A transform `a_from_b` maps coordinates in frame b to coordinates in frame a."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

ROTATION_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class SE3:
    """A rotation followed by a translation.

    Args:
        rotation: proper rotation matrix, float64, [3, 3].
        translation_m: metres, float64, [3].

    Raises:
        ValueError: not finite, wrong shape, or not a rotation (|R Rᵀ - I| > 1e-4 or det < 0).
    """

    rotation: Float[ndarray, "3 3"]
    translation_m: Float[ndarray, "3"]

    def __post_init__(self) -> None:
        rotation = np.array(self.rotation, dtype=np.float64)
        translation = np.array(self.translation_m, dtype=np.float64)
        if rotation.shape != (3, 3) or translation.shape != (3,):
            raise ValueError(f"SE3 takes shapes (3, 3) and (3,), got {rotation.shape} and {translation.shape}")
        if not (np.isfinite(rotation).all() and np.isfinite(translation).all()):
            raise ValueError("SE3 holds NaN or infinity: check the pose file that it was read from")
        error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
        if error > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
            raise ValueError(f"SE3.rotation is not a rotation: |R Rᵀ - I| = {error:.2g}, limit {ROTATION_TOLERANCE}")
        rotation.flags.writeable = translation.flags.writeable = False
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation_m", translation)

    @classmethod
    def identity(cls) -> "SE3":
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_matrix(cls, matrix: Float[ndarray, "r 4"]) -> "SE3":
        """From a 3x4 or 4x4 homogeneous matrix; rotation noise of text files (about 1e-5) is projected away."""
        matrix = np.asarray(matrix, dtype=np.float64)
        if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
            raise ValueError(f"a pose is a finite 3x4 or 4x4 matrix, got shape {matrix.shape}")
        return cls(_nearest_rotation(matrix[:3, :3]), matrix[:3, 3])

    @classmethod
    def from_quat(cls, quat_wxyz: Float[ndarray, "4"], translation_m: Float[ndarray, "3"]) -> "SE3":
        """From a quaternion (w, x, y, z; normalised here) and a translation in metres."""
        return cls(rotation_from_quat(np.asarray(quat_wxyz, dtype=np.float64)), translation_m)

    @classmethod
    def from_yaw(cls, yaw_rad: float, translation_m: Float[ndarray, "3"]) -> "SE3":
        """Rotation by `yaw_rad` counter-clockwise about z (up)."""
        c, s = np.cos(yaw_rad), np.sin(yaw_rad)
        return cls(np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]), translation_m)

    @property
    def quat_wxyz(self) -> Float[ndarray, "4"]:
        """Unit quaternion (w, x, y, z) with w >= 0."""
        return quat_from_rotation(self.rotation)

    @property
    def matrix(self) -> Float[ndarray, "4 4"]:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.rotation, self.translation_m
        return matrix

    def inverse(self) -> "SE3":
        return SE3(self.rotation.T, -self.rotation.T @ self.translation_m)

    def __matmul__(self, other: "SE3") -> "SE3":
        """Compose: `a_from_b @ b_from_c` is `a_from_c`."""
        return SE3(self.rotation @ other.rotation, self.rotation @ other.translation_m + self.translation_m)

    def apply(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
        """Map points [n, 3]; float32 in, float32 out."""
        out = points @ self.rotation.T + self.translation_m
        return out.astype(points.dtype, copy=False)


def rotation_from_quat(quat_wxyz: Float[ndarray, "4"]) -> Float[ndarray, "3 3"]:
    """Rotation matrix of a quaternion (w, x, y, z), which need not be normalised but must not be zero."""
    norm = np.linalg.norm(quat_wxyz)
    if not np.isfinite(norm) or norm == 0:
        raise ValueError(f"a rotation quaternion is finite and not zero, got {quat_wxyz}")
    w, x, y, z = quat_wxyz / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quat_from_rotation(rotation: Float[ndarray, "3 3"]) -> Float[ndarray, "4"]:
    """Unit quaternion (w, x, y, z), w >= 0: the eigenvector method of Bar-Itzhack (2000), stable at every angle."""
    r = rotation
    k = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], 0, 0, 0],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], 0, 0],
            [r[0, 2] - r[2, 0], r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], 0],
            [r[1, 0] - r[0, 1], r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    _, vectors = np.linalg.eigh(k, UPLO="L")
    quat = vectors[:, -1]
    return quat if quat[0] >= 0 else -quat


def _nearest_rotation(matrix: Float[ndarray, "3 3"]) -> Float[ndarray, "3 3"]:
    """Closest rotation in Frobenius norm, refused when the matrix is farther from one than text rounding explains."""
    u, singular_values, vt = np.linalg.svd(matrix)
    if np.abs(singular_values - 1).max() > 1e-2 or np.linalg.det(matrix) < 0:
        raise ValueError(f"pose matrix is not rigid: singular values {singular_values.round(4).tolist()}")
    return u @ vt
