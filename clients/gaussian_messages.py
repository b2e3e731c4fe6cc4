"""What RSUs and vehicles say to each other while a scene is rebuilt: dataclasses here, arrays by name on the wire.

All of it travels as a `TrainRequest` or `TrainReply` of `clients.messages`, with the job's name in the settings. Poses
and images have no place in any of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from numpy import ndarray
from torch import Tensor

from clients.messages import Arrays, MessageError, Scalar, TrainReply, TrainRequest
from geometry import Sim3
from geometry.se3 import quat_from_rotation, rotation_from_quat
from recon.gaussians import Gaussians
from recon.refine import Update

FIT, ALIGN, REFINE, JUDGE = "fit", "align", "refine", "judge"
JOB: Final = "job"
ALL: Final = "all"
WHOLE: Final = ("steps", "max-gaussians", "seed", "round-number", "landmarks")
FIELDS: Final = ("means", "quats", "log_scales", "logit_opacities", "sh")
IMAGES, LIDAR = "images", "lidar"
FOUND: Final = {IMAGES: "found:", LIDAR: "felt:"}  # before the names of arrays
MARKS: Final = "landmarks"
NO_LANDMARKS: Final = np.zeros((0, 3), np.float32)
Metrics = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class FitRequest:
    """Fit your own images.

    Args:
        own_m, others_m: planned waypoints, which say where the vehicle's region ends.
        steps: of the fit.
        max_gaussians: budget.
        margin_m: what lies farther outside the region than this is not to be sent; infinity sends all.
        seed: of the fit.
        landmarks: the most points on surfaces that are wanted, see `recon.landmarks`; 0 wants none.
    """

    own_m: Float[ndarray, "k 2"]
    others_m: Float[ndarray, "j 2"]
    steps: int
    max_gaussians: int
    margin_m: float
    seed: int
    landmarks: int = 0


@dataclass(frozen=True, eq=False)
class FitReply:
    """What a vehicle has of its stretch, in its own world.

    Args:
        gaussians: that it fitted.
        views: images behind them.
        metrics: what was measured.
        landmarks: see `recon.landmarks`; none without LiDAR.
    """

    gaussians: Gaussians
    views: int
    metrics: Metrics = field(default_factory=dict)
    landmarks: Float32[ndarray, "k 3"] = field(default_factory=lambda: NO_LANDMARKS)


@dataclass(frozen=True, eq=False)
class AlignRequest:
    """Say where others' Gaussians or landmarks lie in your own world.

    Args:
        others: Gaussians by name, in the worlds of their owners; if together, all in one world.
        together: whether to look for one similarity of all of them, `ALL`.
        landmarks: of others by name, in the worlds of their owners.
    """

    others: Mapping[str, Gaussians]
    together: bool = False
    landmarks: Mapping[str, Float32[ndarray, "_ 3"]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Found:
    """Where another party lies: all that leaves a vehicle that aligned it.

    Args:
        own_from_other: the similarity.
        before, after: loss at the start, and with the similarity; by LiDAR, mean distance from surfaces in metres.
        views: images that showed the other's Gaussians; by LiDAR, landmarks that lie on a surface.
        by: `IMAGES` or `LIDAR`.
    """

    own_from_other: Sim3
    before: float
    after: float
    views: int
    by: str = IMAGES


@dataclass(frozen=True, eq=False)
class AlignReply:
    """By name of the other party; those that the vehicle does not see are missing."""

    found: Mapping[str, Found]
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RefineRequest:
    """Improve the scene by your own images.

    Args:
        scene: Gaussians around the vehicle, in the world of all.
        world_from_own: where the vehicle's world lies.
        steps: of Adam.
        round_number: of the refinement, from 0.
        pace: learning rate of the means as a share of a fit's.
        seed: of the order of images.
        teacher: a smoothed scene to stay near, or None.
        report_quality: whether to measure how well the scene shows the vehicle's images.
    """

    scene: Gaussians
    world_from_own: Sim3
    steps: int
    round_number: int
    pace: float
    seed: int
    teacher: Gaussians | None = None
    report_quality: bool = False


@dataclass(frozen=True, eq=False)
class RefineReply:
    """How Gaussians that the vehicle sees should change.

    Args:
        rows: of the scene that was sent, ascending.
        update: of these rows.
        views: images behind it.
    """

    rows: Int64[Tensor, "r"]
    update: Update
    views: int
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class JudgeRequest:
    """Say how well the scene shows images that you held back; those within `border_m` of a border apart."""

    scene: Gaussians
    world_from_own: Sim3
    own_m: Float[ndarray, "k 2"]
    others_m: Float[ndarray, "j 2"]
    border_m: float


def pack_gaussians(gaussians: Gaussians, group: str) -> Arrays:
    """Arrays named "group/field", float32, without a copy where they are on the CPU."""
    return {f"{group}/{name}": tensor.detach().cpu().numpy() for name, tensor in gaussians.tensors().items()}


def unpack_gaussians(arrays: Mapping[str, ndarray], group: str) -> Gaussians:
    """Inverse of `pack_gaussians`.

    Raises:
        MessageError: an array is missing, or they are no Gaussians.
    """
    try:
        tensors = {name: _tensor(arrays[f"{group}/{name}"]) for name in FIELDS}
        return Gaussians(**tensors)
    except KeyError as error:
        raise MessageError(f"the message lacks the array {error}") from None
    except (ValueError, TypeError) as error:
        raise MessageError(f"{group}: {error}") from None


def pack_sim3(sim3: Sim3) -> Float[ndarray, "8"]:
    """Quaternion w x y z, translation in metres, scale."""
    return np.concatenate([quat_from_rotation(sim3.rotation), sim3.translation_m, [sim3.scale]])


def unpack_sim3(numbers: Float[ndarray, "8"]) -> Sim3:
    """Inverse of `pack_sim3`.

    Raises:
        MessageError: these are no similarity.
    """
    numbers = np.asarray(numbers, np.float64)
    if numbers.shape != (8,) or not np.isfinite(numbers).all() or not abs(np.linalg.norm(numbers[:4]) - 1) < 1e-3:
        raise MessageError(f"a similarity takes a unit quaternion, three metres and a scale, got {numbers.tolist()}")
    try:
        return Sim3(rotation_from_quat(numbers[:4] / np.linalg.norm(numbers[:4])), numbers[4:7], float(numbers[7]))
    except ValueError as error:
        raise MessageError(str(error)) from None


def encode_fit(request: FitRequest) -> TrainRequest:
    """As a message's content."""
    arrays = {"own": np.asarray(request.own_m, np.float64), "others": np.asarray(request.others_m, np.float64)}
    numbers = {"steps": request.steps, "max-gaussians": request.max_gaussians, "seed": request.seed}
    return TrainRequest(arrays, {JOB: FIT, "margin-m": request.margin_m, MARKS: request.landmarks, **numbers})


def decode_fit(request: TrainRequest) -> FitRequest:
    """Inverse of `encode_fit`; raises MessageError."""
    numbers = [_number(request, name) for name in ("steps", "max-gaussians", "margin-m", "seed", MARKS)]
    steps, most, margin_m, seed, marks = numbers
    places = (_array(request, "own"), _array(request, "others"))
    return FitRequest(*places, int(steps), int(most), margin_m, int(seed), int(marks))


def encode_fit_reply(reply: FitReply) -> TrainReply:
    """As a message's content."""
    marks: Arrays = {MARKS: reply.landmarks} if len(reply.landmarks) else {}
    return TrainReply(pack_gaussians(reply.gaussians, "part") | marks, reply.views, reply.metrics)


def decode_fit_reply(reply: TrainReply) -> FitReply:
    """Inverse of `encode_fit_reply`; raises MessageError."""
    marks = _points(reply.arrays.get(MARKS, NO_LANDMARKS))
    return FitReply(unpack_gaussians(reply.arrays, "part"), reply.num_examples, reply.metrics, marks)


def encode_align(request: AlignRequest) -> TrainRequest:
    """As a message's content."""
    arrays: Arrays = {}
    for name, gaussians in request.others.items():
        arrays |= pack_gaussians(gaussians, f"other:{name}")
    arrays |= {f"{MARKS}:{name}": points for name, points in request.landmarks.items()}
    return TrainRequest(arrays, {JOB: ALIGN, "together": request.together})


def decode_align(request: TrainRequest) -> AlignRequest:
    """Inverse of `encode_align`; raises MessageError."""
    names = sorted(
        {key.rpartition("/")[0].removeprefix("other:") for key in request.arrays if key.startswith("other:")}
    )
    others = {name: unpack_gaussians(request.arrays, f"other:{name}") for name in names}
    start = f"{MARKS}:"
    marks = {k.removeprefix(start): _points(v) for k, v in sorted(request.arrays.items()) if k.startswith(start)}
    return AlignRequest(others, bool(request.config.get("together", False)), marks)


def encode_align_reply(reply: AlignReply) -> TrainReply:
    """As a message's content."""
    arrays = {
        FOUND[found.by] + name: np.concatenate(
            [pack_sim3(found.own_from_other), [found.before, found.after, found.views]]
        )
        for name, found in reply.found.items()
    }
    return TrainReply(arrays, 1, reply.metrics)


def decode_align_reply(reply: TrainReply) -> AlignReply:
    """Inverse of `encode_align_reply`; raises MessageError."""
    found = {}
    for key, numbers in reply.arrays.items():
        by = next((by for by, start in FOUND.items() if key.startswith(start)), None)
        if by is None or numbers.shape != (11,) or numbers.dtype.kind != "f" or not np.isfinite(numbers).all():
            raise MessageError(f"a reply to align holds eleven finite numbers a party, not {key} {numbers.shape}")
        before, after, views = (float(number) for number in numbers[8:])
        found[key.removeprefix(FOUND[by])] = Found(unpack_sim3(numbers[:8]), before, after, int(views), by)
    return AlignReply(found, reply.metrics)


def encode_refine(request: RefineRequest) -> TrainRequest:
    """As a message's content."""
    arrays = {**pack_gaussians(request.scene, "scene"), "world-from-own": pack_sim3(request.world_from_own)}
    if request.teacher is not None:
        arrays |= pack_gaussians(request.teacher, "teacher")
    numbers = {"steps": request.steps, "round-number": request.round_number, "seed": request.seed}
    settings: dict[str, Scalar] = {JOB: REFINE, **numbers, "pace": request.pace, "quality": request.report_quality}
    return TrainRequest(arrays, settings)


def decode_refine(request: TrainRequest) -> RefineRequest:
    """Inverse of `encode_refine`; raises MessageError."""
    steps, number, seed, pace = (_number(request, name) for name in ("steps", "round-number", "seed", "pace"))
    return RefineRequest(
        scene=unpack_gaussians(request.arrays, "scene"),
        world_from_own=unpack_sim3(_array(request, "world-from-own")),
        steps=int(steps),
        round_number=int(number),
        pace=pace,
        seed=int(seed),
        teacher=unpack_gaussians(request.arrays, "teacher") if "teacher/means" in request.arrays else None,
        report_quality=bool(request.config.get("quality", False)),
    )


def encode_refine_reply(reply: RefineReply) -> TrainReply:
    """As a message's content."""
    arrays = {f"change/{name}": tensor.detach().cpu().numpy() for name, tensor in reply.update.changes.items()}
    arrays |= {"rows": reply.rows.numpy().astype(np.int32), "visibility": reply.update.visibility.numpy()}
    return TrainReply(arrays, reply.views, reply.metrics)


def decode_refine_reply(reply: TrainReply, scene: Gaussians) -> RefineReply:
    """Inverse of `encode_refine_reply`.

    Args:
        reply: as it came.
        scene: that was sent.

    Raises:
        MessageError: an array is missing, of another shape or type, not finite, or rows are not those of the scene.
    """
    arrays = reply.arrays
    wanted = {"rows", "visibility", *(f"change/{name}" for name in FIELDS)}
    if set(arrays) != wanted:
        raise MessageError(f"a reply to refine holds {sorted(wanted)}, got {sorted(arrays)}")
    if arrays["rows"].dtype.kind not in "iu":
        raise MessageError(f"rows must be whole numbers, got {arrays['rows'].dtype}")
    rows = torch.from_numpy(np.array(arrays["rows"]).astype(np.int64))
    if rows.ndim != 1 or (len(rows) and not (rows[0] >= 0 and rows[-1] < len(scene) and (rows.diff() > 0).all())):
        raise MessageError(f"rows must rise and lie below {len(scene)}")
    changes = {name: _tensor(arrays[f"change/{name}"]) for name in FIELDS}
    visibility = _tensor(arrays["visibility"])
    for name, tensor in {**scene.tensors(), "visibility": scene.logit_opacities}.items():
        given = visibility if name == "visibility" else changes[name]
        if given.shape != (len(rows), *tensor.shape[1:]) or not torch.isfinite(given).all():
            raise MessageError(f"{name}: not finite, or of shape {tuple(given.shape)} for {len(rows)} rows")
    if (visibility < 0).any():
        raise MessageError("visibility is negative")
    return RefineReply(rows, Update(changes, visibility), reply.num_examples, reply.metrics)


def encode_judge(request: JudgeRequest) -> TrainRequest:
    """As a message's content."""
    arrays = {**pack_gaussians(request.scene, "scene"), "world-from-own": pack_sim3(request.world_from_own)}
    arrays |= {"own": np.asarray(request.own_m, np.float64), "others": np.asarray(request.others_m, np.float64)}
    return TrainRequest(arrays, {JOB: JUDGE, "border-m": request.border_m})


def decode_judge(request: TrainRequest) -> JudgeRequest:
    """Inverse of `encode_judge`; raises MessageError."""
    return JudgeRequest(
        unpack_gaussians(request.arrays, "scene"),
        unpack_sim3(_array(request, "world-from-own")),
        _array(request, "own"),
        _array(request, "others"),
        _number(request, "border-m"),
    )


def _number(request: TrainRequest, name: str) -> float:
    value = request.config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or (name in WHOLE and not math.isfinite(value)):
        raise MessageError(f"the settings of a {request.config.get(JOB)} request lack the number {name!r}")
    return value


def _array(request: TrainRequest, name: str) -> ndarray:
    if name not in request.arrays:
        raise MessageError(f"a {request.config.get(JOB)} request lacks the array {name!r}")
    return request.arrays[name]


def _points(values: ndarray) -> Float32[ndarray, "k 3"]:
    if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] != 3:
        raise MessageError(f"landmarks travel as float32 [k, 3], got {values.dtype} {list(values.shape)}")
    return np.array(values)


def _tensor(values: ndarray) -> Tensor:
    if values.dtype != np.float32:
        raise MessageError(f"Gaussians travel as float32, got {values.dtype}")
    return torch.from_numpy(np.array(values))
