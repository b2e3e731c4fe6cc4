"""Held-out images of a reconstruction beside what the scene shows there, and where along the way they stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray

from fl_app.survey import Survey
from recon.evaluate import score_view
from recon.gaussians import Gaussians
from recon.movie import SOLID
from recon.objective import render_view
from recon.spherical import from_rgb
from recon.views import View, placed
from strategies.gaussian_scene import Scene, whole
from strategies.gaussian_state import FusionState

NEXT_STEPS: Final = 4.0  # frames are neighbours on the way if no farther apart than so many median steps
SAME_PLACE_M: Final = 8.0  # borders of the same two RSUs nearer to each other than this are one


@dataclass(frozen=True)
class Border:
    """Where the way leaves one RSU's region for another's.

    Args:
        rsus: names, in order.
        along_m: from the start of the way.
        place_m: east, north.
    """

    rsus: tuple[str, str]
    along_m: float
    place_m: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Judged:
    """One held-out image.

    Args:
        vehicle, rsu: whose it is.
        along_m: of the camera, from the start of the way.
        place_m: east, north of the camera in the data's world.
        ahead: direction in which it looks, on the ground plane.
        view: posed in the world of all.
        psnr_db, ssim: of the scene as it is rendered, without the exposures that vehicles keep to themselves.
        render: what the scene shows.
        depth_m: along z, infinity where less than half of the light is stopped.
    """

    vehicle: str
    rsu: str
    along_m: float
    place_m: Float[ndarray, "2"]
    ahead: Float[ndarray, "2"]
    view: View
    psnr_db: float
    ssim: float
    render: UInt8[ndarray, "h w 3"]
    depth_m: Float32[ndarray, "h w"]

    @property
    def photo(self) -> UInt8[ndarray, "h w 3"]:
        """What was seen."""
        return self.view.image.numpy()

    @property
    def counted(self) -> Bool[ndarray, "h w"]:
        """Pixels that are judged: not those of vehicles and people."""
        return np.ones(self.view.size_px, bool) if self.view.counted is None else self.view.counted.numpy()


def centres_m(survey: Survey) -> Float[ndarray, "n 2"]:
    """East, north of all frames."""
    return survey.problem.cameras_m


def along_way_m(survey: Survey) -> Float[ndarray, "n"]:
    """Metres from the start of the way to each frame."""
    steps_m = np.linalg.norm(np.diff(centres_m(survey), axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps_m)])


def rsus_of_frames(survey: Survey) -> list[str]:
    """Name of the RSU whose vehicle is to cover each frame."""
    stretches = survey.plan.stretches
    return [stretches[int(number)].rsu for number in survey.owner]


def borders_between(survey: Survey) -> list[Border]:
    """Where the way goes from one RSU to another, in its order; a way that ends where it starts has one there too."""
    places_m, rsus, along = centres_m(survey), rsus_of_frames(survey), along_way_m(survey)
    steps_m = np.diff(along)
    longest_m = NEXT_STEPS * float(np.median(steps_m)) if len(steps_m) else 0.0
    pairs = [*pairwise(range(len(rsus))), (len(rsus) - 1, 0)]
    found: list[Border] = []
    for a, b in pairs:
        apart_m = float(np.linalg.norm(places_m[a] - places_m[b]))
        if rsus[a] != rsus[b] and apart_m <= longest_m:
            east_m, north_m = places_m[[a, b]].mean(axis=0)
            one, other = sorted((rsus[a], rsus[b]))
            border = Border((one, other), float(along[a]) + apart_m / 2, (float(east_m), float(north_m)))
            if not any(_same(border, known) for known in found):
                found.append(border)
    return found


def _same(a: Border, b: Border) -> bool:
    return a.rsus == b.rsus and float(np.hypot(*np.subtract(a.place_m, b.place_m))) < SAME_PLACE_M


def judged_images(survey: Survey, state: FusionState, most: int = 200) -> list[Judged]:
    """Held-out images in order along the way, of vehicles whose world is known; none where there is no scene.

    Args:
        survey: whose vehicles hold them.
        state: with the scene.
        most: images; of more some are left out, evenly.
    """
    if not state.scene:
        return []
    everything, along, judged = whole(state.scene), along_way_m(survey), []
    kept = _spread(survey.judged, most)
    numbers = {stretch.vehicle: number for number, stretch in enumerate(survey.plan.stretches)}
    for vehicle in survey.vehicles:
        world_from_own = state.world_from.get(vehicle.vehicle)
        if world_from_own is None:
            continue
        own = [index for index in survey.judged if survey.owner[index] == numbers[vehicle.vehicle]]
        for index, view in zip(own, vehicle.judged(), strict=True):
            if index in kept and (view.counted is None or view.counted.any()):
                judged.append(_judged(everything, placed(view, world_from_own), survey, index, float(along[index])))
    return sorted(judged, key=lambda image: image.along_m)


def _judged(gaussians: Gaussians, view: View, survey: Survey, index: int, along_m: float) -> Judged:
    stretch = survey.plan.stretches[int(survey.owner[index])]
    pose = survey.frames[index].camera.world_from_cam
    score = score_view(gaussians, view)[0].image
    render, depth_m = picture_of(gaussians, view)
    return Judged(
        vehicle=stretch.vehicle,
        rsu=stretch.rsu,
        along_m=along_m,
        place_m=pose.translation_m[:2],
        ahead=pose.rotation[:2, 2],
        view=view,
        psnr_db=score.psnr_db,
        ssim=score.ssim,
        render=render,
        depth_m=depth_m,
    )


def _spread(indices: Sequence[int], most: int) -> set[int]:
    """At most so many of them, evenly."""
    rows = np.unique(np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(int))
    return {indices[int(row)] for row in rows}


def seam_images(borders: Sequence[Border], judged: Sequence[Judged]) -> list[tuple[Border, Judged]]:
    """For each border the nearest held-out image of its two RSUs, among those that look towards it if any does."""
    seams = []
    for border in borders:
        beside = [image for image in judged if image.rsu in border.rsus]
        facing = [image for image in beside if float(image.ahead @ (border.place_m - image.place_m)) > 0]
        if beside:
            seams.append((border, min(facing or beside, key=lambda image: _away_m(image, border))))
    return seams


def _away_m(image: Judged, border: Border) -> float:
    return float(np.linalg.norm(border.place_m - image.place_m))


def in_colours(scene: Scene, colours: Mapping[str, tuple[float, float, float]]) -> Gaussians:
    """The whole scene with each RSU's Gaussians in one colour, RGB in 0..1."""
    painted = {}
    for rsu, gaussians in scene.items():
        rgb = from_rgb(torch.tensor(colours[rsu])).to(gaussians.sh)
        painted[rsu] = Gaussians(**{**gaussians.tensors(), "sh": rgb.expand(len(gaussians), 1, 3).contiguous()})
    return whole(painted)


def picture_of(gaussians: Gaussians, view: View) -> tuple[UInt8[ndarray, "h w 3"], Float32[ndarray, "h w"]]:
    """Colours, and depth along z in metres, infinity where less than half of the light is stopped."""
    with torch.no_grad():
        drawn, alpha = render_view(gaussians, view, mode="RGB+ED")
    rgb = (drawn[..., :3].clamp(0, 1) * 255).round().to(torch.uint8)
    return rgb.numpy(), torch.where(alpha >= SOLID, drawn[..., 3], torch.inf).float().numpy()
