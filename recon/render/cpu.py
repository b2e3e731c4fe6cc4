"""The compiled rasteriser as a torch function: `kernel.cpp` through ctypes, gradients for all that a scene learns.

It runs on `torch.get_num_threads()` threads and gives the same bits for any number of them. Where several processes
share the cores, set `OMP_WAIT_POLICY=passive` and one thread each before torch is imported: idle threads that spin cost
two to five times the time.
"""

import ctypes
import threading
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.render.build import load_kernel
from recon.render.inputs import Inputs, Setting

__all__ = ["Setting", "View", "render"]

TILE_PX, TILE_PIXELS, SLOT_FLOATS, CHUNK = 16, 256, 16, 512
SPLAT_BYTES, MAX_PAIRS, POSE_SUMS, KEPT_BYTES = 64, 2**31 - 1, 15, 2**26

INTEGERS = ("n", "width", "height", "channels", "depth", "expected", "threads", "pairs", "sh_degree", "coefficients")
DOUBLES = ("fx", "fy", "cx", "cy", "eps2d", "near_plane")
INPUTS = ("means", "quats", "scales", "opacities", "colors", "background")
PROJECTED = ("splats", "boxes", "means2d", "radii")
SORTED = ("pair", "tile_start", "touched", "transmittance", "last", "contributing", "expected_depth")
RESULTS = ("image", "alpha", "g_image", "g_alpha", "slots", "slot_used")
GRADIENTS = ("g_means", "g_quats", "g_scales", "g_opacities", "g_colors", "g_view", "g_background")


class _Call(ctypes.Structure):
    """Mirrors `struct Call` of kernel.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in INTEGERS),
        ("view", ctypes.c_double * 12),
        ("eye", ctypes.c_double * 3),
        *((name, ctypes.c_double) for name in DOUBLES),
        *((name, ctypes.c_void_p) for name in INPUTS + PROJECTED + SORTED + RESULTS + GRADIENTS),
    ]


class View:
    """One camera's call of the kernel with the buffers that the way back reads again."""

    def __init__(self, setting: Setting, inputs: list[Tensor], viewmat: Tensor, k: Tensor, background: Tensor | None):
        self.call, self.kept = _Call(), dict[str, Tensor]()
        self.kernel = load_kernel(setting.vector_floats)
        self.kernel.convoy_project.restype = ctypes.c_int64
        self.tiles = -(-setting.width // TILE_PX) * -(-setting.height // TILE_PX)
        call, colors, degree = self.call, inputs[4], setting.sh_degree
        call.n, call.width, call.height, call.depth = len(inputs[0]), setting.width, setting.height, setting.depth
        call.expected = setting.expected
        call.channels, call.eps2d, call.near_plane = colors.shape[-1] + call.depth, setting.eps2d, setting.near_plane
        call.view[:] = viewmat[:3].double().flatten().tolist()
        call.fx, call.fy, call.cx, call.cy = (float(k[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
        call.sh_degree, call.coefficients = -1 if degree is None else degree, colors.shape[1]
        self.world_from_cam = torch.linalg.inv(viewmat.double()) if degree else None
        if self.world_from_cam is not None:
            call.eye[:] = self.world_from_cam[:3, 3].tolist()
        self.put(**dict(zip(INPUTS, inputs, strict=False)))
        if background is not None:
            self.put(background=background)
        self.render()

    def put(self, **tensors: Tensor) -> None:
        """Hands contiguous tensors to the kernel and keeps them alive."""
        for name, tensor in tensors.items():
            self.kept[name] = tensor
            setattr(self.call, name, tensor.data_ptr())

    def run(self, name: str) -> int:
        self.call.threads = torch.get_num_threads()
        return int(getattr(self.kernel, name)(ctypes.byref(self.call)) or 0)

    def render(self) -> None:
        """Projects, sorts and draws into `kept`: image, alpha, means2d and radii."""
        call, n, pixels = self.call, self.call.n, self.tiles * TILE_PIXELS
        self.put(
            splats=_aligned(n * SPLAT_BYTES),
            boxes=torch.empty(n, 4, dtype=torch.int32),
            means2d=torch.empty(n, 2),
            radii=torch.empty(n, 2, dtype=torch.int32),
        )
        pairs = self.run("convoy_project")
        if pairs > MAX_PAIRS:
            raise MemoryError(f"{pairs} pairs of Gaussian and tile are too many: render a smaller image or scene")
        call.pairs = pairs
        self.put(
            pair=torch.empty(pairs, 2, dtype=torch.int32),
            tile_start=torch.empty(self.tiles + 1, dtype=torch.int32),
            touched=torch.empty(pairs, dtype=torch.int16),
            transmittance=torch.empty(pixels),
            last=torch.empty(pixels, dtype=torch.int32),
            contributing=torch.empty(self.tiles, dtype=torch.int32),
            image=torch.empty(call.height, call.width, call.channels),
            alpha=torch.empty(call.height, call.width, 1),
        )
        if call.expected:
            self.put(expected_depth=torch.empty(3 * pixels))
        self.run("convoy_render")

    def backward(self, g_image: Tensor, g_alpha: Tensor) -> list[Tensor]:
        """Gradients of means, quats, scales, opacities, colors, pose [4, 4] and background [d]."""
        names = INPUTS[:5]
        self.put(
            g_image=g_image.contiguous(),
            g_alpha=g_alpha.contiguous(),
            slots=_scratch(4 * SLOT_FLOATS * self.call.pairs),
            slot_used=torch.empty(self.call.pairs, dtype=torch.uint8),
            g_view=torch.empty(-(-self.call.n // CHUNK), POSE_SUMS, dtype=torch.float64),
            g_background=torch.empty(self.tiles, 4, dtype=torch.float64),
            **{f"g_{name}": torch.empty_like(self.kept[name]) for name in names},
        )
        self.run("convoy_backward")
        results = {name: self.kept.pop(name) for name in (*GRADIENTS, "g_image", "g_alpha", "slots", "slot_used")}
        g_view = self.pose_gradient(results["g_view"].sum(0)).float()
        g_background = results["g_background"].sum(0)[: self.call.channels].float()
        return [*(results[f"g_{name}"] for name in names), g_view, g_background]

    def pose_gradient(self, sums: Float[Tensor, "15"]) -> Float[Tensor, "4 4"]:
        """Of the camera's pose; harmonics see it through the eye, the last column of its inverse, too."""
        g_view = torch.zeros(4, 4, dtype=sums.dtype)
        g_view[:3] = sums[:12].reshape(3, 4)
        if self.world_from_cam is not None:  # d(V⁻¹) = -V⁻¹ dV V⁻¹
            g_view -= torch.outer(sums[12:] @ self.world_from_cam[:3], self.world_from_cam[:, 3])
        return g_view


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, setting: Setting, means, quats, scales, opacities, colors, viewmats, ks, backgrounds
    ):  # -> image, alpha, means2d, radii
        shared = [tensor.contiguous() for tensor in (means, quats, scales, opacities, colors)]
        ctx.views = [View(setting, shared, viewmats[i], ks[i], _row(backgrounds, i)) for i in range(len(viewmats))]
        ctx.has_background = backgrounds is not None
        results = [_stacked([view.kept[name] for view in ctx.views]) for name in ("image", "alpha", "means2d", "radii")]
        ctx.mark_non_differentiable(*results[2:])
        ctx.save_for_backward(*shared)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_image, g_alpha, *_):
        assert ctx.saved_tensors  # torch raises here if an input was changed in place since
        by_view = [view.backward(g_image[i], g_alpha[i]) for i, view in enumerate(ctx.views)]
        columns = list(zip(*by_view, strict=True))
        shared = [torch.stack(column).sum(0) if len(column) > 1 else column[0] for column in columns[:5]]
        viewmats, backgrounds = map(torch.stack, columns[5:])
        return None, *shared, viewmats, None, backgrounds if ctx.has_background else None


def render(
    inputs: Inputs, setting: Setting
) -> tuple[Float[Tensor, "c h w d"], Float[Tensor, "c h w 1"], Float[Tensor, "c n 2"], Int[Tensor, "c n 2"]]:
    """Images, alphas, centres and radii in pixels; float32. d is 0 or 3 colours, one more with depth: 1, 3 or 4.

    Raises:
        KernelUnavailableError: the kernel cannot be compiled here.
        MemoryError: more than 2³¹ pairs of Gaussian and tile.
    """
    tensors = (None if tensor is None else tensor.float() for tensor in vars(inputs).values())
    return _Rasterize.apply(setting, *tensors)


def _stacked(tensors: list[Tensor]) -> Tensor:
    """`torch.stack`, without a copy of a single one."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)


def _row(tensor: Tensor | None, i: int) -> Tensor | None:
    return None if tensor is None else tensor[i].contiguous()


_own = threading.local()


def _scratch(size: int) -> Tensor:
    """Bytes that this thread keeps from call to call, for fresh pages cost more than what is done with them."""
    if size > KEPT_BYTES:
        return _aligned(size)
    if not hasattr(_own, "bytes") or len(_own.bytes) < size:
        _own.bytes = _aligned(size)
    return _own.bytes


def _aligned(size: int) -> Tensor:
    """Bytes that start at a cache line."""
    raw = torch.empty(size + 64, dtype=torch.uint8)
    return raw[-raw.data_ptr() % 64 :][:size]
