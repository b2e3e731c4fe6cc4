"""Whether tools made for real photos believe the town, and what a frame of it costs.

- `town.fastestdet_vehicle_recall`: share of the town's vehicles over 25 px that FastestDet finds at IoU 0.5 by day, at
  KITTI's image size and field of view; beside the share that it finds on the real KITTI frames of `CONVOY_DATA`. The
  network is not ours: trained on COCO, run by OpenCV, its published decoding and a score threshold of 0.2 for both.
- `town.sfm_registered_share`: share of a drive's frames that pycolmap registers with its camera centre within 0.1 m of
  the truth, after a similarity is fitted. Frames lie at least half a metre apart: a vehicle at a red light sees nothing
  new. Known intrinsics, sequential matching; the initial pair may lie along the
  direction of travel (COLMAP's defaults refuse forward motion, on real drives too).
- `town.render_vs_raycast`: CPU seconds of whole frames over those that went into casting their rays (Embree alone), the
  larger of the ratios at KITTI's size and at the demo's.
- `town.render_cpu_s`: CPU seconds for the demo's set in one process; `--quick` renders every sixth frame and scales.

The towns of the first two are seeds on which neither looks nor traffic were tuned.

The first needs `CONVOY_DATA`; without it that claim is left out and said to be.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import _harness as harness
import cv2  # before pycolmap
import numpy as np
from _harness import Claim

from geometry import Frame
from perception.datasets.base import FleetRequest
from perception.datasets.folder import open_dataset
from perception.datasets.town import HOLDOUT, TownConfig, town_config
from perception.datasets.town.layout import plan_town
from perception.datasets.town.rendering import Shot, render
from perception.datasets.town.traffic import plan_day
from perception.labels import OBJECT_ID
from perception.raycast import RayScene

TOWNS = (11, 12, 13)  # seeds on which nothing was chosen
LONGEST_DRIVE, APART_M = 400, 0.5  # frames at 10 Hz that are searched for moving ones, and how far these lie apart
KITTI_SIZE_PX, KITTI_FOV_DEG = (375, 1242), 81.5
SMALLEST_PX, SCORE, OVERLAP_NMS = 25, 0.2, 0.45
COCO_VEHICLES = (2, 5, 6, 7)  # car, bus, train, truck
NET_PX, GRID = 352, 22


@dataclass(frozen=True)
class Found:
    """Vehicles that were found, of those that there are, in some frames."""

    frames: str
    found: int
    of: int

    @property
    def share(self) -> float:
        return self.found / max(self.of, 1)


def town(preset: str, seed: int, frames: int = 0, size_px: tuple[int, int] = KITTI_SIZE_PX) -> TownConfig:
    """A preset, by default with KITTI's camera."""
    config = town_config(FleetRequest(preset=preset, seed=seed, vehicles=0, size_px=size_px, frames_per_vehicle=frames))
    return replace(config, fov_deg=KITTI_FOV_DEG) if size_px == KITTI_SIZE_PX else config


# 1. A detector that others trained.


class FastestDet:
    """FastestDet (dog-qiuqiu), COCO weights, through OpenCV: boxes of vehicles in an image."""

    def __init__(self, weights: Path) -> None:
        self._net = cv2.dnn.readNetFromONNX(str(weights))

    def vehicles(self, image: np.ndarray) -> np.ndarray:
        """xyxy in pixels [n, 4] of an RGB image."""
        blob = cv2.dnn.blobFromImage(np.ascontiguousarray(image[..., ::-1]), 1 / 255, (NET_PX, NET_PX))
        self._net.setInput(blob)
        out = self._net.forward()[0]
        score, kind = out[0] ** 0.6 * out[5:].max(axis=0) ** 0.4, out[5:].argmax(axis=0)
        row, column = np.mgrid[:GRID, :GRID]
        centre = np.stack([np.tanh(out[1]) + column, np.tanh(out[2]) + row], axis=-1) / GRID
        size = 1 / (1 + np.exp(-np.stack([out[3], out[4]], axis=-1)))
        kept = (score > SCORE) & np.isin(kind, COCO_VEHICLES)
        scale = np.array(image.shape[1::-1])
        low, size = ((centre - size / 2) * scale)[kept], (size * scale)[kept]
        best = cv2.dnn.NMSBoxes(np.hstack([low, size]).tolist(), score[kept].tolist(), SCORE, OVERLAP_NMS)
        chosen = np.array(best, int).ravel()
        return np.hstack([low[chosen], low[chosen] + size[chosen]]).reshape(-1, 4)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n, 4] and [m, 4]."""
    size = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    both = np.clip(size, 0, None).prod(axis=-1)
    area = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b)]
    return both / (area[0][:, None] + area[1][None] - both)


def recall(name: str, net: FastestDet, frames: Sequence[Frame]) -> Found:
    """How many of the labelled vehicles over 25 px high are found at IoU 0.5."""
    found = total = 0
    for frame in frames:
        if frame.image is None or frame.boxes is None:
            continue
        truth = frame.boxes.xyxy_px[frame.boxes.labels == OBJECT_ID["vehicle"]]
        truth = truth[truth[:, 3] - truth[:, 1] > SMALLEST_PX]
        boxes = net.vehicles(frame.image)
        total += len(truth)
        found += int((overlaps(truth, boxes).max(axis=1) >= 0.5).sum()) if len(truth) and len(boxes) else 0
    return Found(name, found, total)


def recall_claims(data: Path, seeds: Sequence[int], ticks: Sequence[int]) -> tuple[list[Claim], list[Found]]:
    """The town's frames and KITTI's, by the same network."""
    net = FastestDet(data / "weights" / "fastestdet" / "FastestDet.onnx")
    rows = []
    for seed in seeds:
        config = town("village", seed)
        frames = [render(config, Shot(vehicle, tick)) for vehicle in range(config.vehicles) for tick in ticks]
        rows.append(recall(f"town, seed {seed}", net, frames))
    kitti = [recall(name, net, open_dataset(data / name)) for name in ("kitti_object", "kitti_raw_0005")]
    ours, real = (sum(r.found for r in group) / sum(r.of for r in group) for group in (rows, kitti))
    claim = Claim("town.fastestdet_vehicle_recall", ours, real, ours, "share", sum(r.of for r in rows))
    return [claim], rows + kitti


# 2. Structure from motion.


def moving_ticks(config: TownConfig, frames: int) -> list[int]:
    """The first frames of vehicle 0 that lie at least `APART_M` from the one before; there may be fewer.

    A vehicle that waits at a light sees the same picture again and again, from which nothing can be reconstructed.
    """
    layout = plan_town(config)
    day = plan_day(layout, config, 0, config.frames_per_vehicle, 0)
    track = day.actors[day.sensing[0]].track[:, :2]
    chosen = [0]
    for tick in range(len(track)):
        if np.linalg.norm(track[tick] - track[chosen[-1]]) >= APART_M:
            chosen.append(tick)
    return chosen[:frames]


def registered_share(seed: int, frames: int) -> tuple[float, float]:
    """Share of a drive's frames registered within 0.1 m, and the median error (m) of those registered."""
    config = town("street", seed, LONGEST_DRIVE)
    drive = [render(config, Shot(0, tick)) for tick in moving_ticks(config, frames)]
    frames = len(drive)
    centres = np.array([frame.camera.world_from_cam.translation_m for frame in drive])
    folder = Path(tempfile.mkdtemp(prefix="convoy-sfm-"))
    try:
        found = reconstruct(drive, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if len(found) < 3:
        return 0.0, float("nan")
    index = sorted(found)
    error = similarity_residuals(np.array([found[i] for i in index]), centres[index])
    return float((error <= 0.1).sum() / frames), float(np.median(error))


def reconstruct(drive: Sequence[Frame], folder: Path) -> dict[int, np.ndarray]:
    """Camera centres by frame of the largest model that pycolmap makes of a drive."""
    import pycolmap

    pycolmap.logging.minloglevel = 3
    pycolmap.set_random_seed(0)
    images, database = folder / "images", folder / "database.db"
    images.mkdir()
    for i, frame in enumerate(drive):
        cv2.imwrite(str(images / f"{i:04d}.png"), frame.image[..., ::-1])  # type: ignore[index]
    camera = drive[0].camera
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "PINHOLE"
    reader.camera_params = f"{camera.fx_px},{camera.fy_px},{camera.cx_px},{camera.cy_px}"
    pycolmap.extract_features(database, images, reader_options=reader, camera_mode=pycolmap.CameraMode.SINGLE)
    pairing = pycolmap.SequentialPairingOptions()
    pairing.overlap = 5
    pycolmap.match_sequential(database, pairing_options=pairing)
    options = pycolmap.IncrementalPipelineOptions()
    options.ba_refine_focal_length = options.ba_refine_extra_params = False
    options.mapper.init_min_tri_angle, options.mapper.init_max_forward_motion = 2.0, 1.0
    models = pycolmap.incremental_mapping(database, images, folder, options=options).values()
    best = max(models, key=lambda model: model.num_reg_images(), default=None)
    if best is None:
        return {}
    return {int(image.name[:4]): image.projection_center() for image in best.images.values() if image.has_pose}


def similarity_residuals(estimated: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Distances (m) [n] after the best scale, rotation and shift (Umeyama 1991)."""
    a, b = estimated - estimated.mean(axis=0), true - true.mean(axis=0)
    u, s, vt = np.linalg.svd(b.T @ a)
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ flip @ vt
    scale = np.trace(np.diag(s) @ flip) / (a**2).sum()
    return np.linalg.norm(scale * a @ rotation.T - b, axis=1)


def sfm_claims(seeds: Sequence[int], frames: int) -> list[Claim]:
    """The mean over towns."""
    shares, errors = zip(*(registered_share(seed, frames) for seed in seeds), strict=True)
    harness.console.print(f"pycolmap: median error of the camera centres {np.round(errors, 4)} m")
    return [Claim("town.sfm_registered_share", fmean(shares), 1.0, fmean(shares), "share", len(seeds) * frames)]


# 3. Cost.


def vs_raycast(config: TownConfig, shots: Sequence[Shot]) -> tuple[float, float]:
    """CPU seconds of rendering frames of one drive, and how many of them went into casting rays."""
    render(config, shots[0])  # sets the stage
    spent_s = [0.0]
    whole = {name: getattr(RayScene, name) for name in ("cast", "occluded")}

    def timed(method: Callable) -> Callable:
        def call(scene: RayScene, rays: np.ndarray) -> object:
            begun_s = time.process_time()
            result = method(scene, rays)
            spent_s[0] += time.process_time() - begun_s
            return result

        return call

    for name, method in whole.items():
        setattr(RayScene, name, timed(method))
    try:
        started_s = time.process_time()
        for shot in shots:
            render(config, shot)
        rendering_s = time.process_time() - started_s
    finally:
        for name, method in whole.items():
            setattr(RayScene, name, method)
    return rendering_s, spent_s[0]


def cost_claims(every: int) -> list[Claim]:
    """Rendering against bare ray casting at KITTI's size and the demo's, and the demo's set."""
    costs = []
    for size_px in (KITTI_SIZE_PX, (128, 384)):
        config = town("village", 0, size_px=size_px)
        shots = [Shot(0, tick) for tick in range(2, 26, 2)]
        costs.append(vs_raycast(config, shots))
        harness.console.print(f"{size_px[1]} x {size_px[0]} px: {costs[-1][0] / costs[-1][1]:.2f} x bare ray casting")
    rendering_s, rays_s = costs[0]
    set_s = demo_set_cpu_s(every)
    return [
        Claim("town.render_vs_raycast", rendering_s, rays_s, max(a / b for a, b in costs), "CPU-s", len(shots)),
        Claim("town.render_cpu_s", set_s, 60.0, set_s, "CPU-s", every),
    ]


def demo_set_cpu_s(every: int) -> float:
    """CPU seconds to render the demo's frames in this process: stages in full, frames scaled from every n-th."""
    config = town("village", 3, size_px=(128, 384))
    drives = [*(range(config.vehicles)), HOLDOUT]
    stages_s = frames_s = 0.0
    for vehicle in drives:
        started_s = time.process_time()
        render(config, Shot(vehicle, 0))
        stages_s += time.process_time() - started_s
        length = config.holdout_frames if vehicle == HOLDOUT else config.frames_per_vehicle
        started_s = time.process_time()
        for tick in range(1, length, every):
            render(config, Shot(vehicle, tick))
        frames_s += (time.process_time() - started_s) * (length - 1) / len(range(1, length, every))
    return stages_s + frames_s


def main() -> None:
    arguments = harness.parse_arguments(__doc__ or "")
    claims, rows = [], []
    data = os.environ.get("CONVOY_DATA")
    if data:
        seeds, ticks = (TOWNS[:2], range(2, 26, 6)) if arguments.quick else (TOWNS, range(1, 41, 4))
        claims, rows = recall_claims(Path(data), seeds, ticks)
        table = [{**asdict(row), "share": row.share} for row in rows]
        harness.write_csv(arguments.out / "town-recall.csv", table)
        harness.print_table("FastestDet: vehicles over 25 px found at IoU 0.5", table)
    else:
        harness.console.print("CONVOY_DATA is not set: town.fastestdet_vehicle_recall is left out")
    claims += sfm_claims(TOWNS[:1], 16) if arguments.quick else sfm_claims(TOWNS, 40)
    claims += cost_claims(every=6 if arguments.quick else 1)
    harness.print_table("Claims", [asdict(claim) for claim in claims])
    harness.print_claims(claims)


if __name__ == "__main__":
    main()
