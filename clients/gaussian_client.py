"""A vehicle that rebuilds its stretch of a street: fits, aligns its neighbours, refines, judges. No pose leaves it.

It keeps nothing from one message to the next but its images: what it must know, exposures for one, it sees again.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float32
from numpy import ndarray
from torch import Tensor

from clients.gaussian_messages import (
    ALIGN,
    ALL,
    FIT,
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
from clients.gaussian_wire import (
    JOB,
    decode_align,
    decode_fit,
    decode_judge,
    decode_refine,
    encode_align_reply,
    encode_fit_reply,
    encode_refine_reply,
)
from clients.messages import EvaluateReply, Hello, MessageError, TrainReply, TrainRequest
from geometry import Frame, Sim3
from recon.align import COVERED, align_coarse_to_fine, gradient_at, halved
from recon.chart import Chart
from recon.compressed import compress_gaussians, expand_gaussians
from recon.evaluate import gains_between, mean_scores, observed_gains, score
from recon.fit import FitConfig, fit, start
from recon.gaussians import Gaussians
from recon.initial import initial_points
from recon.landmarks import landmarks, surface_map
from recon.merge import trim
from recon.objective import LossWeights, render_view
from recon.refine import REFINE_WEIGHTS, local_update, seen_rows
from recon.refusal import AcceptanceConfig, sound_rows
from recon.region import waypoint_region, widened
from recon.register import register
from recon.scene_scale import scene_scale
from recon.views import View, Views, placed

ALIGN_VIEWS, ALIGN_SHARE = 8, 0.15  # images that a neighbour is aligned by, and the least share that shows it
ALIGN_WHOLE: Final = 0.6  # share of an image from which on others' Gaussians nearly fill it
SKY_M: Final = 1000.0  # see `initial_points`: where skies start, beyond the ways of all that are in sight
RATES: Final = ("quats_lr", "log_scales_lr", "logit_opacities_lr", "sh_lr")  # of a fit, which `rate` multiplies
ALIGN_STEPS: Final = (40, 30, 30)
ALIGN_WEIGHTS: Final = LossWeights(depth=0.3)


@dataclass(frozen=True, eq=False)
class VehicleFrames:
    """What one vehicle holds.

    Args:
        vehicle: its name.
        rsu: that it drives under.
        train, test: frames with images.
        own_from_data: the world that it believes to be in, off by what its positioning is off; the data's is the
            identity.
        ignore: pixels that do not count.
    """

    vehicle: str
    rsu: str
    train: Sequence[Frame]
    test: Sequence[Frame]
    own_from_data: Sim3
    ignore: Callable[[Frame], Bool[ndarray, "h w"] | None] | None = None

    def learned(self) -> list[View]:
        """What is learned from, in the vehicle's world; depth is what its LiDAR senses."""
        views = Views(self.train, ignore=self.ignore, with_depth=True, lidar_first=True)
        return [placed(views[index], self.own_from_data) for index in range(len(views))]

    def judged(self) -> list[View]:
        """What is judged by, in the vehicle's world."""
        if not len(self.test):
            return []
        views = Views(self.test, ignore=self.ignore, with_depth=True)
        return [placed(views[index], self.own_from_data) for index in range(len(views))]


class GaussianClient:
    """One vehicle.

    Args:
        frames: what it holds.
        learned, judged: its views, see `VehicleFrames`; read once by whoever makes the client.
    """

    def __init__(self, frames: VehicleFrames, learned: Sequence[View], judged: Sequence[View]) -> None:
        self.frames, self.learned, self.judged = frames, learned, judged

    def hello(self) -> Hello:
        """Name, RSU and number of images."""
        return Hello(self.frames.vehicle, self.frames.rsu, len(self.learned))

    def work(self, request: TrainRequest) -> TrainReply:
        """Do the job that a message asks for.

        Raises:
            MessageError: no such job, or the message does not keep to the contract.
        """
        job = request.config.get(JOB)
        if job == FIT:
            return encode_fit_reply(self.fit(decode_fit(request)))
        if job == ALIGN:
            return encode_align_reply(self.align(decode_align(request)))
        if job == REFINE:
            return encode_refine_reply(self.refine(decode_refine(request)))
        raise MessageError(f"no such job: {job!r}; known are {FIT}, {ALIGN} and {REFINE}")

    def fit(self, request: FitRequest) -> FitReply:
        """Fit Gaussians to the vehicle's images; send landmarks, and those in its region and the margin around it."""
        began_s = time.thread_time()
        config = FitConfig(request.steps, request.max_gaussians, seed=request.seed, weights=REFINE_WEIGHTS)
        frames = list(self.frames.train)
        options: dict[str, Any] = {"seed": request.seed, "ignore": self.frames.ignore, "far_m": SKY_M}
        points = initial_points(frames, config.start_points, **options)
        state = start(points.gaussians().transformed(self.frames.own_from_data), config, self.learned)
        fit(state, config, self.learned, limit=request.limit)
        fitted = state.gaussians.detach()
        limits = AcceptanceConfig().about(request.own_m)
        kept = as_taken(fitted, limits)
        marks = self._landmarks(request, limits)
        if math.isfinite(request.margin_m):
            region = widened(waypoint_region(request.own_m, request.others_m), request.margin_m)
            kept = trim(kept, region, 0.0)
            marks = marks[(region(torch.from_numpy(marks)) >= 0).numpy()]
        counts = {"gaussians-fitted": len(fitted), "gaussians-sent": len(kept), "landmarks-sent": len(marks)}
        return FitReply(kept, len(self.learned), {"fit-cpu-s": time.thread_time() - began_s, **counts}, marks)

    def _landmarks(self, request: FitRequest, limits: AcceptanceConfig) -> Float32[ndarray, "k 3"]:
        """In the vehicle's world, those that an RSU takes."""
        if not request.landmarks:
            return NO_LANDMARKS
        found_m = landmarks(self.frames.train, count=request.landmarks, seed=request.seed, ignore=self.frames.ignore)
        own_m = self.frames.own_from_data.apply(found_m.astype(np.float64)).astype(np.float32)
        return own_m[limits.within(own_m)]

    def align(self, request: AlignRequest) -> AlignReply:
        """Find where others lie: their landmarks by the own LiDAR, their Gaussians by the images that show them.

        Images are for those without landmarks; for all, if LiDAR finds nobody.
        """
        began_s = time.thread_time()
        felt = self._felt(request.landmarks)
        others = {n: g for n, g in sorted(request.others.items()) if not (felt and n in request.landmarks)}
        views = {name: showing(other, self.learned) for name, other in others.items()}
        if request.together:
            seen = list({id(view): view for chosen in views.values() for view in chosen}.values())
            found = {ALL: aligned(Gaussians.concat(list(others.values())), seen)} if seen else {}
        else:
            found = {name: aligned(others[name], chosen) for name, chosen in views.items() if chosen}
        return AlignReply(found | felt, {"align-cpu-s": time.thread_time() - began_s})

    def _felt(self, others: Mapping[str, Float32[ndarray, "_ 3"]]) -> dict[str, Found]:
        """Where others' landmarks lie on the surfaces that this vehicle's LiDAR saw, of those that it saw."""
        surface = surface_map(self.frames.train) if others else None
        if surface is None:
            return {}
        own = surface.transformed(self.frames.own_from_data)
        felt = {name: register(points_m.astype(np.float64), own) for name, points_m in sorted(others.items())}
        return {
            name: Found(one.map_from_points, one.before_m, one.after_m, one.matched, LIDAR)
            for name, one in felt.items()
            if one is not None
        }

    def refine(self, request: RefineRequest) -> RefineReply:
        """Some steps from the scene of all, at the vehicle's own images."""
        began_s = time.thread_time()
        views = [placed(view, request.world_from_own) for view in self.learned]
        log_gains, scale_m = observed_gains(request.scene, views), scene_scale(request.scene, views)
        rates: dict[str, Any] = {name: request.rate * getattr(FitConfig, name) for name in RATES}
        rates["means_lr"] = request.pace * FitConfig.means_lr
        config = FitConfig(request.steps, max(len(request.scene), 1), seed=request.seed, visible_only=True, **rates)
        update = local_update(
            *(request.scene, request.round_number, views, config, scale_m),
            log_gains=log_gains,
            teacher=request.teacher,
            limit=request.limit,
        )
        rows, seen = seen_rows(update)
        metrics = self._quality(request.scene, views, log_gains) if request.report_quality else {}
        return RefineReply(rows, seen, len(views), {"refine-cpu-s": time.thread_time() - began_s, **metrics})

    def judge(self, content: TrainRequest) -> EvaluateReply:
        """Score the scene at the images that were held back, if any; those near a border once more apart."""
        request = decode_judge(content)
        if not len(self.judged):
            return EvaluateReply(0)
        views, learned = ([placed(v, request.world_from_own) for v in each] for each in (self.judged, self.learned))
        log_gains = gains_between(observed_gains(request.scene, learned), learned, views)
        scores = score(request.scene, views, log_gains)
        metrics = {name.replace("_", "-"): value for name, value in mean_scores(scores).items()}
        border = near_border(views, request)
        metrics["border-views"] = float(len(border))
        if border:
            metrics["border-psnr-db"] = mean_scores([scores[index] for index in border])["psnr_db"]
        return EvaluateReply(len(views), metrics)

    def _quality(self, scene: Gaussians, views: Sequence[View], log_gains: Tensor) -> dict[str, float]:
        means = mean_scores(score(scene, views, log_gains))
        return {"psnr-db": means["psnr_db"], "ssim": means["ssim"]}


def as_taken(gaussians: Gaussians, limits: AcceptanceConfig) -> Gaussians:
    """Those that an RSU takes, as they arrive there: what rounding carries over a limit is left out too."""
    sent = expand_gaussians(compress_gaussians(gaussians.select(sound_rows(gaussians, limits))))
    return sent.select(sound_rows(sent, limits))


def showing(other: Gaussians, views: Sequence[View], most: int = ALIGN_VIEWS) -> list[View]:
    """The views of which others' Gaussians cover the largest shares, in order; none with less than `ALIGN_SHARE`.

    Up to twice as many of those that they cover nearly whole: what is there was looked at from near by, whereas views
    that show a little of others' Gaussians show these from where their owner never was.
    """
    shares = [covered_share(other, view) for view in views]
    best = sorted(range(len(views)), key=lambda index: -shares[index])
    chosen = [index for index in best[:most] if shares[index] >= ALIGN_SHARE]
    chosen += [index for index in best[most : 2 * most] if shares[index] >= ALIGN_WHOLE]
    return [views[index] for index in sorted(chosen)]


@torch.no_grad()
def covered_share(gaussians: Gaussians, view: View) -> float:
    """Of a view's pixels, judged at a quarter of its size where that is possible."""
    small = halved(halved(view)) if min(view.size_px) >= 32 else view
    _, alpha = render_view(gaussians.with_degree(0), small)
    covered = alpha > COVERED
    return float((covered if small.counted is None else covered & small.counted).double().mean())


def aligned(other: Gaussians, views: Sequence[View]) -> Found:
    """Where others' Gaussians lie in the views' world, sought near where they are."""
    centres = torch.stack([-view.viewmat[:3, :3].T @ view.viewmat[:3, 3] for view in views])
    pivot_m = centres.double().mean(dim=0).numpy()
    chart, here = Chart.of(other, pivot_m), Sim3.identity()
    moved = align_coarse_to_fine(other, [views], here, pivot_m=pivot_m, steps=ALIGN_STEPS, weights=ALIGN_WEIGHTS)
    options: dict[str, Any] = {"views": views, "chart": chart, "weights": ALIGN_WEIGHTS}
    before, after = (gradient_at(other, chart.parameters(sim3), **options)[0] for sim3 in (here, moved))
    return Found(moved, before, after, len(views))


def near_border(views: Sequence[View], request: JudgeRequest) -> list[int]:
    """Which views were taken within `border_m` of where the vehicle's region ends, in the world of all."""
    centres = torch.stack([-view.viewmat[:3, :3].T @ view.viewmat[:3, 3] for view in views])
    inside_m = waypoint_region(request.own_m, request.others_m)(centres)
    return [index for index in range(len(views)) if abs(float(inside_m[index])) < request.border_m]
