"""Triangle meshes with what shading and labelling need per triangle, and the primitives that a town is built of."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, UInt8
from numpy import ndarray

NOBODY = -1
_WELD_M = 1e-3  # vertices nearer than this are one
Triple = Iterable[float | int]


class Surface(IntEnum):
    """How a triangle is coloured."""

    PLAIN = 0
    ROAD = 1
    PAVEMENT = 2
    LAWN = 3
    FACADE = 4
    ROOF = 5
    FOLIAGE = 6
    PAINT = 7
    GLASS = 8
    LAMP = 9
    FENCE = 10
    SHADE = 11


@dataclass(frozen=True)
class Coat:
    """What a part's triangles share: semantic class, base colour (linear RGB, 0..1), kind of surface, owner."""

    segment: int
    rgb: Triple
    surface: Surface = Surface.PLAIN
    owner: int = NOBODY


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with attributes.

    Args:
        vertices: metres, float32 [v, 3].
        faces: vertex indices, counter-clockwise seen from outside, int32 [f, 3].
        surface: `Surface` of each triangle, uint8 [f].
        segment: semantic class of each triangle, uint8 [f].
        rgb: base colour (albedo, linear, 0..1), float32 [f, 3].
        owner: track id of the object, index of the building, or `NOBODY`, int32 [f].
        normals: of each triangle's corners where it stands for a curved surface, else zeros, float32 [f, 3, 3].
    """

    vertices: Float32[ndarray, "v 3"]
    faces: Int32[ndarray, "f 3"]
    surface: UInt8[ndarray, "f"]
    segment: UInt8[ndarray, "f"]
    rgb: Float32[ndarray, "f 3"]
    owner: Int32[ndarray, "f"]
    normals: Float32[ndarray, "f 3 3"]

    @cached_property
    def curved(self) -> Bool[ndarray, "f"]:
        """Which triangles have corner normals."""
        return np.asarray(self.normals.any(axis=(1, 2)))

    def __len__(self) -> int:
        return len(self.faces)

    def transformed(self, rotation: Float[ndarray, "3 3"], translation_m: Float[ndarray, "3"]) -> "Mesh":
        """Vertices mapped by `rotation @ x + translation_m` (any linear map will do for the rotation)."""
        moved = self.vertices @ rotation.T.astype(np.float32) + np.asarray(translation_m, np.float32)
        if not self.curved.any():
            return replace(self, vertices=moved)
        turned = self.normals @ np.linalg.inv(rotation).astype(np.float32)
        return replace(self, vertices=moved, normals=turned)

    def owned_by(self, owner: int) -> "Mesh":
        """The same mesh with one owner for all triangles."""
        return replace(self, owner=np.full(len(self), owner, np.int32))


def mesh(vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"], coat: Coat) -> Mesh:
    """A mesh with one coat for all triangles."""
    n = len(faces)
    colour = np.broadcast_to(np.asarray(tuple(coat.rgb), np.float32), (n, 3)).copy()
    return Mesh(
        np.asarray(vertices, np.float32),
        np.asarray(faces, np.int32),
        np.full(n, coat.surface, np.uint8),
        np.full(n, coat.segment, np.uint8),
        colour,
        np.full(n, coat.owner, np.int32),
        np.zeros((n, 3, 3), np.float32),
    )


def smoothed(shape: Mesh, crease_deg: float) -> Mesh:
    """The same triangles with corner normals that are the mean of the faces around, across edges below the crease."""
    corners = shape.vertices[shape.faces].astype(np.float64)
    face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat = face / np.maximum(np.linalg.norm(face, axis=1, keepdims=True), 1e-12)
    _, spot = np.unique(np.round(shape.vertices / _WELD_M).astype(np.int64), axis=0, return_inverse=True)
    at, limit = spot.ravel()[shape.faces].ravel(), np.cos(np.radians(crease_deg))
    faces_at = [np.flatnonzero(at == place) // 3 for place in range(at.max() + 1)]
    normals = np.empty((len(at), 3))
    for corner, place in enumerate(at):
        around = faces_at[place]
        total = face[around[flat[around] @ flat[corner // 3] > limit]].sum(axis=0)
        normals[corner] = total / max(np.linalg.norm(total), 1e-12)
    return replace(shape, normals=normals.reshape(-1, 3, 3).astype(np.float32))


def merged(parts: Iterable[Mesh]) -> Mesh:
    """All parts as one mesh; an empty mesh for no parts."""
    parts = list(parts)
    if not parts:
        return mesh(np.zeros((0, 3)), np.zeros((0, 3), int), Coat(0, (0, 0, 0)))
    offsets = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    faces = [part.faces + np.int32(offset) for part, offset in zip(parts, offsets, strict=True)]
    join = lambda name: np.concatenate([getattr(part, name) for part in parts])  # noqa: E731
    rest = (join(name) for name in ("surface", "segment", "rgb", "owner", "normals"))
    return Mesh(join("vertices"), np.concatenate(faces), *rest)


_CUBE = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0, 1)])
_CUBE_FACES = np.array(
    [
        [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
        [2, 3, 7], [2, 7, 6], [1, 5, 7], [1, 7, 3], [0, 2, 6], [0, 6, 4],
    ]
)  # fmt: skip
_PRISM = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0], [-0.5, 0, 1], [0.5, 0, 1]])
_PRISM_FACES = np.array([[0, 1, 5], [0, 5, 4], [2, 3, 4], [2, 4, 5], [3, 0, 4], [1, 2, 5]])


def box(centre_m: Triple, size_m: Triple, coat: Coat) -> Mesh:
    """An upright box: `centre_m` is the centre of its base, `size_m` along x, y, z."""
    return mesh(_CUBE * tuple(size_m) + tuple(centre_m), _CUBE_FACES, coat)


def gable(centre_m: Triple, size_m: Triple, along_x: bool, coat: Coat) -> Mesh:
    """A gable roof over a rectangle: `centre_m` is the centre of its base; the ridge runs along x, else along y."""
    shape = _PRISM if along_x else np.stack([-_PRISM[:, 1], _PRISM[:, 0], _PRISM[:, 2]], axis=1)
    return mesh(shape * tuple(size_m) + tuple(centre_m), _PRISM_FACES, coat)


def tube(start_m: Triple, end_m: Triple, radius_m: float, sides: int, coat: Coat) -> Mesh:
    """The lateral surface of a cylinder from one point to another."""
    start, end = np.asarray(tuple(start_m), float), np.asarray(tuple(end_m), float)
    axis = (end - start) / np.linalg.norm(end - start)
    side = np.cross(axis, [0.0, 0.0, 1.0] if abs(axis[2]) < 0.9 else [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side)
    angle = 2 * np.pi * np.arange(sides) / sides
    ring = radius_m * (np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * np.cross(axis, side))
    i = np.arange(sides)
    j = (i + 1) % sides
    faces = np.concatenate([np.stack([i, j, j + sides], 1), np.stack([i, j + sides, i + sides], 1)])
    return mesh(np.concatenate([start + ring, end + ring]), faces, coat)


def _icosphere() -> tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]:
    """An icosahedron with every triangle split in four, radius 1: 42 vertices, 80 triangles."""
    g = (1 + 5**0.5) / 2
    v = [np.array(p, float) for p in
         [(-1, g, 0), (1, g, 0), (-1, -g, 0), (1, -g, 0), (0, -1, g), (0, 1, g),
          (0, -1, -g), (0, 1, -g), (g, 0, -1), (g, 0, 1), (-g, 0, -1), (-g, 0, 1)]]  # fmt: skip
    f = [(0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4), (11, 10, 2), (10, 7, 6),
         (7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9), (4, 9, 5), (2, 4, 11), (6, 2, 10),
         (8, 6, 7), (9, 8, 1)]  # fmt: skip
    split, middle = [], {}

    def midpoint(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in middle:
            middle[key] = len(v)
            v.append((v[a] + v[b]) / 2)
        return middle[key]

    for a, b, c in f:
        ab, bc, ca = midpoint(a, b), midpoint(b, c), midpoint(c, a)
        split += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    points = np.array(v)
    return points / np.linalg.norm(points, axis=1, keepdims=True), np.array(split)


_BALL, _BALL_FACES = _icosphere()


def blob(centre_m: Triple, radii_m: Triple, rng: np.random.Generator, coat: Coat) -> Mesh:
    """An ellipsoid with a rough surface: a lump of leaves."""
    rough = 1 + rng.uniform(-0.18, 0.18, (len(_BALL), 1))
    return mesh(_BALL * rough * tuple(radii_m) + tuple(centre_m), _BALL_FACES, coat)
