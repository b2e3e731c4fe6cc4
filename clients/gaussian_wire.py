"""How the messages of `gaussian_messages` travel: as a `TrainRequest` or `TrainReply`, one compressed array each.

The job's name is among the settings. Gaussians, updates and landmarks are compressed, see `recon.compressed`: what is
sent is what is counted.
"""

import math
from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from clients.gaussian_messages import (
    ALIGN,
    FIT,
    IMAGES,
    JUDGE,
    LIDAR,
    NO_LANDMARKS,
    REFINE,
    AlignReply,
    AlignRequest,
    FitReply,
    FitRequest,
    Found,
    JudgeRequest,
    RefineReply,
    RefineRequest,
)
from clients.messages import Arrays, MessageError, Scalar, TrainReply, TrainRequest
from geometry import Sim3
from geometry.se3 import quat_from_rotation, rotation_from_quat
from recon.compressed import (
    compress_gaussians,
    compress_points,
    compress_update,
    expand_gaussians,
    expand_points,
    expand_update,
)
from recon.gaussians import Gaussians
from recon.size_limit import SizeLimit

JOB: Final = "job"
MISSING: Final = "missing"  # setting: vehicles that others make up for, with commas between
WHOLE: Final = ("steps", "max-gaussians", "seed", "round-number", "landmarks")
FOUND: Final = {IMAGES: "found:", LIDAR: "felt:"}  # before the names of arrays
PART, SCENE, TEACHER, UPDATE = "part", "scene", "teacher", "update"  # names of arrays
MARKS, LIMIT = "landmarks", "limit"
OTHER, OTHER_MARKS = "other:", "landmarks:"  # before names of vehicles
T = TypeVar("T")


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
    settings: dict[str, Scalar] = {JOB: FIT, "margin-m": request.margin_m, MARKS: request.landmarks, **numbers}
    return _with_limit(TrainRequest(arrays, settings), request.limit)


def decode_fit(request: TrainRequest) -> FitRequest:
    """Inverse of `encode_fit`; raises MessageError."""
    numbers = [_number(request, name) for name in ("steps", "max-gaussians", "margin-m", "seed", MARKS)]
    steps, most, margin_m, seed, marks = numbers
    places = (_array(request, "own"), _array(request, "others"))
    return FitRequest(*places, int(steps), int(most), margin_m, int(seed), int(marks), _limit_of(request))


def encode_fit_reply(reply: FitReply) -> TrainReply:
    """As a message's content."""
    marks: Arrays = {MARKS: compress_points(reply.landmarks)} if len(reply.landmarks) else {}
    return TrainReply({PART: compress_gaussians(reply.gaussians)} | marks, reply.views, reply.metrics)


def decode_fit_reply(reply: TrainReply) -> FitReply:
    """Inverse of `encode_fit_reply`; raises MessageError."""
    arrays = reply.arrays
    marks = _expanded(expand_points, arrays, MARKS) if MARKS in arrays else NO_LANDMARKS
    return FitReply(_expanded(expand_gaussians, arrays, PART), reply.num_examples, reply.metrics, marks)


def encode_align(request: AlignRequest) -> TrainRequest:
    """As a message's content."""
    others: Arrays = {OTHER + name: compress_gaussians(gaussians) for name, gaussians in request.others.items()}
    marks: Arrays = {OTHER_MARKS + name: compress_points(points_m) for name, points_m in request.landmarks.items()}
    return TrainRequest(others | marks, {JOB: ALIGN, "together": request.together})


def decode_align(request: TrainRequest) -> AlignRequest:
    """Inverse of `encode_align`; raises MessageError."""
    arrays = request.arrays
    others = {name: _expanded(expand_gaussians, arrays, OTHER + name) for name in _named(arrays, OTHER)}
    marks = {name: _expanded(expand_points, arrays, OTHER_MARKS + name) for name in _named(arrays, OTHER_MARKS)}
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
    arrays = {SCENE: compress_gaussians(request.scene), "world-from-own": pack_sim3(request.world_from_own)}
    if request.teacher is not None:
        arrays[TEACHER] = compress_gaussians(request.teacher)
    numbers = {"steps": request.steps, "round-number": request.round_number, "seed": request.seed}
    rates = {"pace": request.pace, "rate": request.rate}
    settings: dict[str, Scalar] = {JOB: REFINE, **numbers, **rates, "quality": request.report_quality}
    return _with_limit(TrainRequest(arrays, settings), request.limit)


def decode_refine(request: TrainRequest) -> RefineRequest:
    """Inverse of `encode_refine`; raises MessageError."""
    numbers = [_number(request, name) for name in ("steps", "round-number", "seed", "pace", "rate")]
    steps, number, seed, pace, rate = numbers
    return RefineRequest(
        scene=_expanded(expand_gaussians, request.arrays, SCENE),
        world_from_own=unpack_sim3(_array(request, "world-from-own")),
        steps=int(steps),
        round_number=int(number),
        pace=pace,
        seed=int(seed),
        teacher=_expanded(expand_gaussians, request.arrays, TEACHER) if TEACHER in request.arrays else None,
        report_quality=bool(request.config.get("quality", False)),
        rate=rate,
        limit=_limit_of(request),
    )


def encode_refine_reply(reply: RefineReply) -> TrainReply:
    """As a message's content."""
    return TrainReply({UPDATE: compress_update(reply.rows, reply.update)}, reply.views, reply.metrics)


def decode_refine_reply(reply: TrainReply, scene: Gaussians) -> RefineReply:
    """Inverse of `encode_refine_reply`.

    Args:
        reply: as it came.
        scene: that was sent.

    Raises:
        MessageError: damaged, no update of this scene, or more than an update.
    """
    if set(reply.arrays) != {UPDATE}:
        raise MessageError(f"a reply to refine holds one array, {UPDATE!r}; got {sorted(reply.arrays)[:8]}")
    rows, update = _expanded(lambda data: expand_update(data, scene), reply.arrays, UPDATE)
    return RefineReply(rows, update, reply.num_examples, reply.metrics)


def encode_judge(request: JudgeRequest) -> TrainRequest:
    """As a message's content."""
    arrays = {SCENE: compress_gaussians(request.scene), "world-from-own": pack_sim3(request.world_from_own)}
    arrays |= {"own": np.asarray(request.own_m, np.float64), "others": np.asarray(request.others_m, np.float64)}
    return TrainRequest(arrays, {JOB: JUDGE, "border-m": request.border_m})


def decode_judge(request: TrainRequest) -> JudgeRequest:
    """Inverse of `encode_judge`; raises MessageError."""
    return JudgeRequest(
        _expanded(expand_gaussians, request.arrays, SCENE),
        unpack_sim3(_array(request, "world-from-own")),
        _array(request, "own"),
        _array(request, "others"),
        _number(request, "border-m"),
    )


def _with_limit(request: TrainRequest, limit: SizeLimit | None) -> TrainRequest:
    """With a limit on sizes among its arrays and settings, if there is one."""
    if limit is None:
        return request
    arrays = {**request.arrays, LIMIT: np.asarray(limit.waypoints_m, np.float64)}
    return TrainRequest(arrays, {**request.config, "size-share": limit.share, "size-m": limit.least_m})


def _limit_of(request: TrainRequest) -> SizeLimit | None:
    """Inverse of `_with_limit`."""
    if LIMIT not in request.arrays:
        return None
    try:
        return SizeLimit(request.arrays[LIMIT], _number(request, "size-share"), _number(request, "size-m"))
    except ValueError as error:
        raise MessageError(str(error)) from None


def _number(request: TrainRequest, name: str) -> float:
    value = request.config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or (name in WHOLE and not math.isfinite(value)):
        raise MessageError(f"the settings of a {request.config.get(JOB)} request lack the number {name!r}")
    return value


def _array(request: TrainRequest, name: str) -> ndarray:
    if name not in request.arrays:
        raise MessageError(f"a {request.config.get(JOB)} request lacks the array {name!r}")
    return request.arrays[name]


def _named(arrays: Arrays, start: str) -> list[str]:
    return sorted(name.removeprefix(start) for name in arrays if name.startswith(start))


def _expanded(expand: Callable[[ndarray], T], arrays: Arrays, name: str) -> T:
    """What an array of bytes holds."""
    if name not in arrays:
        raise MessageError(f"the message lacks the array {name!r}")
    try:
        return expand(arrays[name])
    except ValueError as error:
        raise MessageError(f"{name}: {error}") from None
