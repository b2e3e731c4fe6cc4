"""Similarity transforms: a rigid transform with a scale, as between two reconstructions of one street."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from geometry.se3 import SE3

_FLAT: Final = 1e-9  # second singular value below this share of the first: the points lie on a line


@dataclass(frozen=True, eq=False)
class Sim3:
    """A scaling, then a rotation, then a translation: x ↦ scale · R x + t.

    Args:
        rotation: proper rotation matrix, float64, [3, 3].
        translation_m: in the units of the target frame, float64, [3].
        scale: positive.

    Raises:
        ValueError: the rotation or translation is none (see `SE3`), or the scale is not finite and positive.
    """

    rotation: Float[ndarray, "3 3"]
    translation_m: Float[ndarray, "3"]
    scale: float = 1.0

    def __post_init__(self) -> None:
        rigid = SE3(self.rotation, self.translation_m)
        scale = float(self.scale)
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"Sim3.scale must be finite and positive, got {scale}")
        object.__setattr__(self, "rotation", rigid.rotation)
        object.__setattr__(self, "translation_m", rigid.translation_m)
        object.__setattr__(self, "scale", scale)

    @classmethod
    def identity(cls) -> "Sim3":
        return cls(np.eye(3), np.zeros(3), 1.0)

    @classmethod
    def from_se3(cls, pose: SE3, scale: float = 1.0) -> "Sim3":
        """The rigid transform after a scaling about the origin."""
        return cls(pose.rotation, pose.translation_m, scale)

    @classmethod
    def from_points(
        cls,
        source: Float[ndarray, "n 3"],
        target: Float[ndarray, "n 3"],
        weights: Float[ndarray, "n"] | None = None,
    ) -> "Sim3":
        """The transform that takes `source` to `target` with the least (weighted) sum of squares (Umeyama 1991).

        Args:
            source, target: pairs, row by row.
            weights: how much each pair counts, not negative; all alike by default.

        Raises:
            ValueError: fewer than three pairs count, a value is not finite, or the points lie on a line.
        """
        source, target, weights = _checked_pairs(source, target, weights)
        weights = weights / weights.sum()
        from_mean, to_mean = weights @ source, weights @ target
        from_centred, to_centred = source - from_mean, target - to_mean
        _refuse_lines(from_centred, to_centred, weights)
        u, singular, vt = np.linalg.svd((weights[:, None] * to_centred).T @ from_centred)
        signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
        rotation = u @ np.diag(signs) @ vt
        scale = float(singular @ signs / (weights @ (from_centred**2).sum(axis=1)))
        return cls(rotation, to_mean - scale * rotation @ from_mean, scale)

    @property
    def matrix(self) -> Float[ndarray, "4 4"]:
        """Homogeneous matrix; its upper left block is scale · R."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.scale * self.rotation, self.translation_m
        return matrix

    def inverse(self) -> "Sim3":
        turned = self.rotation.T
        return Sim3(turned, -(turned @ self.translation_m) / self.scale, 1.0 / self.scale)

    def __matmul__(self, other: "Sim3") -> "Sim3":
        """Compose: `a_from_b @ b_from_c` is `a_from_c`."""
        translation = self.scale * (self.rotation @ other.translation_m) + self.translation_m
        return Sim3(self.rotation @ other.rotation, translation, self.scale * other.scale)

    def apply(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
        """Map points [n, 3]; float32 in, float32 out."""
        out = self.scale * (points @ self.rotation.T) + self.translation_m
        return out.astype(points.dtype, copy=False)

    def apply_pose(self, source_from_cam: SE3) -> SE3:
        """The pose in the target frame of a camera that is posed in the source frame; a pose has no scale."""
        centre = self.scale * (self.rotation @ source_from_cam.translation_m) + self.translation_m
        return SE3(self.rotation @ source_from_cam.rotation, centre)


def robust_sim3(
    source: Float[ndarray, "n 3"],
    target: Float[ndarray, "n 3"],
    threshold_m: float,
    seed: int = 0,
    trials: int = 256,
) -> tuple[Sim3, Bool[ndarray, "n"]]:
    """`Sim3.from_points` where some of the pairs are wrong: RANSAC (Fischler and Bolles 1981), then a refit.

    Args:
        source, target: pairs, row by row.
        threshold_m: a pair within this distance after the transform is right.
        seed: of the triples that are tried.
        trials: how many triples; 256 find one without outliers among 50 % in all but 1e-14 of runs.

    Returns:
        the transform, and which pairs agree with it.

    Raises:
        ValueError: no triple of the pairs has three that agree, a value is not finite, the threshold is not positive,
            or points lie so nearly on a line that what is within the threshold would decide over the turn about it.
    """
    if not threshold_m > 0:
        raise ValueError(f"threshold_m must be positive, got {threshold_m}")
    source, target, weights = _checked_pairs(source, target, None)
    _refuse_lines(source - source.mean(axis=0), target - target.mean(axis=0), weights)
    rng, best = np.random.default_rng(seed), np.zeros(len(source), bool)
    for _ in range(trials):
        triple = rng.choice(len(source), 3, replace=False)
        agree = _agreeing(source, target, triple, threshold_m)
        best = agree if agree.sum() > best.sum() else best
    for _ in range(10):  # the refit takes in pairs that the noise of three had left out
        agree = _agreeing(source, target, np.flatnonzero(best), threshold_m)
        if agree.sum() < best.sum() or (agree == best).all():
            break
        best = agree
    if best.sum() < 3:
        raise ValueError(f"no three of {len(source)} pairs agree within {threshold_m} m: check the pairs or raise it")
    across_m = np.linalg.svd(target[best] - target[best].mean(axis=0), compute_uv=False)[1] / np.sqrt(best.sum())
    if across_m <= threshold_m:
        raise ValueError(
            f"target points lie nearly on a line, {across_m:.3g} m across where {threshold_m} m may be noise: their "
            "rotation is not determined; take pairs from around a bend, or a smaller threshold_m"
        )
    return Sim3.from_points(source[best], target[best]), best


def _agreeing(source: ndarray, target: ndarray, rows: ndarray, threshold_m: float) -> Bool[ndarray, "n"]:
    try:
        found = Sim3.from_points(source[rows], target[rows])
    except ValueError:
        return np.zeros(len(source), bool)
    return np.linalg.norm(found.apply(source) - target, axis=1) <= threshold_m


def _checked_pairs(
    source: ndarray, target: ndarray, weights: ndarray | None
) -> tuple[Float[ndarray, "n 3"], Float[ndarray, "n 3"], Float[ndarray, "n"]]:
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    weights = np.ones(len(source)) if weights is None else np.asarray(weights, np.float64)
    if not (np.isfinite(source).all() and np.isfinite(target).all() and np.isfinite(weights).all()):
        raise ValueError("point pairs hold NaN or infinity: drop these rows")
    if (weights < 0).any():
        raise ValueError("weights of point pairs must not be negative")
    if (weights > 0).sum() < 3:
        raise ValueError(f"a similarity needs three point pairs, got {(weights > 0).sum()}")
    return source, target, weights


def _refuse_lines(source: ndarray, target: ndarray, weights: ndarray) -> None:
    for name, centred in (("source", source), ("target", target)):
        singular = np.linalg.svd(np.sqrt(weights)[:, None] * centred, compute_uv=False)
        if singular[1] <= _FLAT * max(singular[0], np.finfo(float).tiny):
            raise ValueError(f"{name} points lie on a line or coincide: their rotation is not determined")
