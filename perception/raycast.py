"""Ray casting against triangle meshes: the only module that imports open3d (Embree on the CPU)."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32
from numpy import ndarray

MISS = -1
IMPORT_TRIES, TURN_S = 20, 0.2
_importing = threading.Lock()
_REMEDY = (
    "open3d could not be loaded ({error}). It needs some system libraries: "
    "`apt-get install libusb-1.0-0 libgl1 libegl1 libx11-6`; libusb alone also comes with `pip install libusb-package`"
)


def _preload_libusb() -> None:
    """Load the libusb of the wheel `libusb-package`, where there is one, under the soname that open3d links against."""
    spec = find_spec("libusb_package")
    for folder in spec.submodule_search_locations or () if spec else ():
        library = Path(folder) / "libusb-1.0.so"
        if library.is_file():
            ctypes.CDLL(str(library))


def _import_open3d() -> ModuleType:
    """Imports open3d from any thread, while other threads import what they like.

    Its package goes through `sys.modules` while it is imported, which raises RuntimeError where another thread adds a
    module in that moment. A later try takes milliseconds, in which no other thread gets its turn.
    """
    with _importing:
        with suppress(RuntimeError):
            return _import_once()
        for _ in range(IMPORT_TRIES):
            with _longer_turns(), suppress(RuntimeError):
                return _import_once()
        return _import_once()


@contextmanager
def _longer_turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _import_once() -> ModuleType:
    try:
        _preload_libusb()
        import open3d
    except (ImportError, OSError) as error:
        raise ImportError(_REMEDY.format(error=error)) from error
    return open3d


@dataclass(frozen=True, eq=False)
class Hits:
    """First hits of rays.

    Args:
        t: ray parameter (the distance in units of the direction's length), float32 [n]; infinity for a miss.
        face: index of the triangle hit, int32 [n]; `MISS` (-1) for a miss.
        normal: unit normal of the triangle, oriented by its winding, float32 [n, 3]; zero for a miss.
        uv: barycentric weights of the triangle's second and third corner, float32 [n, 2].
    """

    t: Float32[ndarray, "n"]
    face: Int32[ndarray, "n"]
    normal: Float32[ndarray, "n 3"]
    uv: Float32[ndarray, "n 2"]

    def nearer(self, other: "Hits", face_offset: int) -> "Hits":
        """The nearer of two hits per ray, written over this one; the other's faces are shifted by `face_offset`."""
        theirs = np.flatnonzero(other.t < self.t)
        self.t[theirs], self.face[theirs] = other.t[theirs], other.face[theirs] + np.int32(face_offset)
        self.normal[theirs], self.uv[theirs] = other.normal[theirs], other.uv[theirs]
        return self


class RayScene:
    """A bounding-volume hierarchy over one triangle mesh, built and queried on one thread.

    Args:
        vertices: float32 [v, 3].
        faces: vertex indices, int32 [f, 3]; f may be 0.

    Raises:
        ImportError: open3d or a system library that it links against is missing; the message says what to install.
    """

    def __init__(self, vertices: Float32[ndarray, "v 3"], faces: Int32[ndarray, "f 3"]) -> None:
        self._o3d = _import_open3d()
        self._scene = None
        if len(faces):
            self._scene = self._o3d.t.geometry.RaycastingScene(nthreads=1)
            self._scene.add_triangles(self._tensor(vertices, np.float32), self._tensor(faces, np.uint32))

    def _tensor(self, array: ndarray, dtype: type) -> Any:
        return self._o3d.core.Tensor.from_numpy(np.ascontiguousarray(array, dtype=dtype))

    def cast(self, rays: Float32[ndarray, "n 6"]) -> Hits:
        """First hits of rays (origin x y z, direction x y z) [n, 6]; the direction need not be of unit length."""
        if self._scene is None:
            n = len(rays)
            nothing = np.zeros((n, 5), np.float32)
            return Hits(np.full(n, np.inf, np.float32), np.full(n, MISS, np.int32), nothing[:, :3], nothing[:, 3:])
        result = self._scene.cast_rays(self._tensor(rays, np.float32), nthreads=1)
        t = result["t_hit"].numpy()
        face = np.where(np.isfinite(t), result["primitive_ids"].numpy().view(np.int32), np.int32(MISS))
        return Hits(t, face, result["primitive_normals"].numpy(), result["primitive_uvs"].numpy())

    def occluded(self, rays: Float32[ndarray, "n 6"]) -> Bool[ndarray, "n"]:
        """Whether anything lies along each ray [n, 6] ahead of its origin, at any distance."""
        if self._scene is None:
            return np.zeros(len(rays), bool)
        return self._scene.test_occlusions(self._tensor(rays, np.float32), nthreads=1).numpy()


def simplified(
    vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"], target: int
) -> tuple[Float[ndarray, "w 3"], Int[ndarray, "g 3"]]:
    """A mesh with about `target` triangles, by quadric edge collapse (Garland and Heckbert 1997); smaller ones stay."""
    if len(faces) <= target:
        return vertices, faces
    o3d = _import_open3d()
    mesh = o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(vertices), o3d.utility.Vector3iVector(faces))
    mesh = mesh.remove_duplicated_vertices().simplify_quadric_decimation(target)
    return np.asarray(mesh.vertices), np.asarray(mesh.triangles)
