"""Pictures of a reconstruction as PNG files: the map, seams, views, quality along the way and over the rounds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image

from fl_app.history import History
from fl_app.plain_figures import add_legend, save_figure
from fl_app.scene_judged import Border, Judged, along_way_m, centres_m, picture_of, rsus_of_frames
from fl_app.scene_tables import LINKS
from fl_app.survey import Survey
from recon.gaussians import Gaussians
from recon.movie import colour_depth, comparison
from recon.spherical import BAND_0
from strategies.gaussian_state import FusionState

Colour = tuple[float, float, float]

GREY: Final = (0.6, 0.6, 0.6)
MARGIN_M, CELLS = 12.0, 240  # around the way, and along the longer side of what is drawn of regions
SHADES: Final = (0.0, 0.3, 0.55)  # of black, by which an RSU's vehicles are told apart
ARROW_SHARE: Final = 0.12  # of the map, that the longest arrow takes
MOST_POINTS, ROOFS_M = 60_000, 8.0  # drawn from above, and so far above the median one at most: no sky
GAP_PX: Final = 4


def rsu_colours(rsus: Sequence[str]) -> dict[str, Colour]:
    """One for each name, the same in all pictures."""
    count = len(rsus)
    table = colormaps["tab10"](np.arange(count)) if count <= 10 else colormaps["hsv"](np.linspace(0, 0.9, count))
    return {rsu: (float(r), float(g), float(b)) for rsu, (r, g, b, _) in zip(sorted(rsus), table, strict=True)}


def draw_map(path: Path, survey: Survey, present: Sequence[str], colours: Mapping[str, Colour]) -> Path:
    """RSUs with their regions, and the stretch of each vehicle by its number; grey is who is not in the scene."""
    figure, axis = _figure(7.5, 6.5)
    left, right, low, high = _extent(survey)
    names, owner = _owners(survey, (left, right, low, high))
    shown = [colours[rsu] if rsu in present else GREY for rsu in names]
    axis.imshow(np.array(shown)[owner], extent=(left, right, low, high), origin="lower", alpha=0.25)
    places_m = centres_m(survey)
    for number, stretch in enumerate(survey.plan.stretches):
        own_m = places_m[survey.owner == number]
        rank = [other.vehicle for other in survey.plan.of_rsu(stretch.rsu)].index(stretch.vehicle)
        colour = _darker(colours[stretch.rsu] if stretch.rsu in present else GREY, SHADES[rank % len(SHADES)])
        axis.scatter(*own_m.T, s=9, color=colour, linewidths=0)
        name = stretch.vehicle.rpartition("-")[2].lstrip("0") or "0"
        axis.annotate(name, own_m[len(own_m) // 2], xytext=(5, 5), textcoords="offset points", color=colour)
    for rsu, site_m in zip(sorted(names), survey.sites_m, strict=True):
        axis.scatter(*site_m, s=110, marker="^", color=colours[rsu] if rsu in present else GREY, edgecolors="black")
        axis.annotate(rsu, site_m, xytext=(8, -12), textcoords="offset points", weight="bold")
    axis.set(xlabel="east (m)", ylabel="north (m)", aspect="equal", title="who covers what")
    return _saved(figure, path)


def draw_placing(path: Path, survey: Survey, state: FusionState, colours: Mapping[str, Colour]) -> Path | None:
    """How far vehicles' worlds were off as positioned and after alignment: arrows on the map, and lengths as bars.

    None where no vehicle's world is known.
    """
    vehicles = [vehicle for vehicle in survey.vehicles if vehicle.vehicle in state.world_from]
    if not vehicles:
        return None
    names = [vehicle.vehicle for vehicle in vehicles]
    seeds = [vehicle.own_from_data for vehicle in vehicles]
    centres = [np.array([f.camera.world_from_cam.translation_m for f in vehicle.train]) for vehicle in vehicles]
    pairs = list(zip(names, seeds, centres, strict=True))
    before = [seed.apply(places_m) - places_m for _, seed, places_m in pairs]
    after = [(state.world_from[name] @ seed).apply(places_m) - places_m for name, seed, places_m in pairs]
    figure, axes = _figure(11, 5, columns=2, ratios=(3, 2))
    _draw_arrows(axes[0], survey, [places_m.mean(axis=0) for places_m in centres], before, after)
    rows = np.arange(len(names))
    for offsets, label, shift, colour in ((before, "as positioned", -0.2, GREY), (after, "aligned", 0.2, "tab:red")):
        lengths_m = [float(np.linalg.norm(offset, axis=1).mean()) for offset in offsets]
        axes[1].barh(rows + shift, lengths_m, 0.4, label=label, color=colour)
    axes[1].set_yticks(rows, names, fontsize="small")
    for tick, vehicle in zip(axes[1].get_yticklabels(), vehicles, strict=True):
        tick.set_color(colours[vehicle.rsu])
    axes[1].set(xlabel="mean error of camera positions (m)")
    axes[1].invert_yaxis()
    axes[1].legend()
    return _saved(figure, path)


def _draw_arrows(axis: Any, survey: Survey, middles: list, before: list, after: list) -> None:
    offsets = [np.array([offset.mean(axis=0)[:2] for offset in group]) for group in (before, after)]
    longest_m = max(float(np.linalg.norm(offset, axis=1).max()) for offset in offsets)
    left, right, low, high = _extent(survey)
    gain = max(1.0, float(f"{ARROW_SHARE * max(right - left, high - low) / longest_m:.1g}")) if longest_m else 1.0
    axis.scatter(*centres_m(survey).T, s=4, color="0.85", linewidths=0)
    places_m = np.array(middles)[:, :2]
    options: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1 / gain, "width": 0.006}
    for offset, label, colour in zip(offsets, ("as positioned", "aligned"), (GREY, "tab:red"), strict=True):
        axis.quiver(*places_m.T, *offset.T, color=colour, label=label, **options)
    axis.set(xlabel="east (m)", ylabel="north (m)", aspect="equal", title=f"errors, drawn {gain:g} times as long")
    axis.set(xlim=(left, right), ylim=(low, high))


def draw_way(path: Path, survey: Survey, judged: Sequence[Judged], borders: Sequence[Border], colours: Mapping) -> Path:
    """PSNR of held-out images along the way, with the borders between RSUs as lines."""
    figure, axis = _figure(11, 3.4)
    axis.plot([image.along_m for image in judged], [image.psnr_db for image in judged], color="0.7", linewidth=1)
    dots = {}
    for rsu in sorted({image.rsu for image in judged}):
        own = [(image.along_m, image.psnr_db) for image in judged if image.rsu == rsu]
        dots[rsu] = axis.scatter(*zip(*own, strict=True), s=22, color=colours[rsu], zorder=3)
    for border in borders:
        axis.axvline(border.along_m, color="black", linestyle="--", linewidth=1)
    for along_m in _vehicle_borders_m(survey):
        axis.axvline(along_m, color="0.8", linestyle=":", linewidth=1, zorder=0)
    axis.set(xlabel="along the way (m)", ylabel="PSNR (dB)", title="dashed: borders between RSUs; dotted: vehicles")
    add_legend(axis, dots, ncols=6, fontsize="small", loc="lower left")
    return _saved(figure, path)


def _vehicle_borders_m(survey: Survey) -> list[float]:
    along, owner, rsus = along_way_m(survey), survey.owner, rsus_of_frames(survey)
    rows = [k for k in range(len(owner) - 1) if owner[k] != owner[k + 1] and rsus[k] == rsus[k + 1]]
    return [float(along[k : k + 2].mean()) for k in rows]


def draw_curves(path: Path, history: History) -> Path:
    """PSNR of held-out images, and traffic so far, by round."""
    figure, axes = _figure(11, 3.6, columns=2)
    series = {"all held-out images": "vehicles/psnr-db", "near borders": "vehicles/border-psnr-db"}
    for label, name in series.items():
        if found := history.series(name):
            axes[0].plot(*zip(*found, strict=True), marker="o", markersize=4, label=label)
    for name, label in LINKS.items():
        if found := history.series(f"bytes/{name}"):
            axes[1].plot([number for number, _ in found], [value / 1e6 for _, value in found], marker=".", label=label)
    axes[0].set(xlabel="round", ylabel="PSNR (dB)", title="quality, measured by the vehicles")
    axes[1].set(xlabel="round", ylabel="MB so far", title="traffic")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if axis.lines:
            axis.legend(fontsize="small")
    return _saved(figure, path)


def draw_from_above(path: Path, survey: Survey, state: FusionState, colours: Mapping[str, Colour]) -> Path:
    """The scene's Gaussians from above, in the colours of their RSUs and in their own; high ones hide low ones."""
    figure, axes = _figure(12, 6, columns=2)
    rsus = sorted(state.scene)
    left, right, low, high = _extent(survey)
    everything = Gaussians.concat([state.scene[rsu] for rsu in rsus])
    by_rsu = np.repeat(np.array([colours[rsu] for rsu in rsus]), [len(state.scene[rsu]) for rsu in rsus], axis=0)
    own = (everything.sh[:, 0] * BAND_0 + 0.5).clamp(0, 1).numpy()
    rows = _visible_from_above(everything, (left, right, low, high))
    places_m, opacities = everything.means[rows].numpy(), everything.opacities[rows].numpy()
    sizes_m = everything.scales[rows].amax(dim=1).clamp(0.05, 0.5).numpy()
    for axis, colour, title in ((axes[0], by_rsu, "by RSU"), (axes[1], own, "their own colours")):
        axis.set(xlim=(left, right), ylim=(low, high), aspect="equal", title=title, xlabel="east (m)")
        if len(rows):
            axis.scatter(*places_m[:, :2].T, s=(8 * sizes_m) ** 2, c=colour[rows], alpha=opacities, linewidths=0)
    for rsu, site_m in zip(sorted({s.rsu for s in survey.plan.stretches}), survey.sites_m, strict=True):
        axes[0].scatter(*site_m, s=80, marker="^", color=colours[rsu], edgecolors="black")
    axes[0].set(ylabel="north (m)")
    return _saved(figure, path)


def _visible_from_above(gaussians: Gaussians, extent_m: tuple[float, float, float, float]) -> ndarray:
    """Rows within the map and below the sky, low ones first; of very many those that hide least are left out."""
    left, right, low, high = extent_m
    east_m, north_m, up_m = gaussians.means.unbind(1)
    inside = (east_m > left) & (east_m < right) & (north_m > low) & (north_m < high)
    if inside.any():
        inside &= up_m < up_m[inside].median() + ROOFS_M
    rows = torch.nonzero(inside)[:, 0]
    if len(rows) > MOST_POINTS:
        rows = rows[gaussians.opacities[rows].topk(MOST_POINTS).indices]
    return rows[gaussians.means[rows, 2].argsort()].numpy()


def draw_seam(path: Path, seam: Judged, painted: Gaussians) -> Path:
    """Photo and render above; four times their difference, and whose Gaussians the render is made of, below.

    Args:
        path: to write.
        seam: a held-out image that looks over a border.
        painted: the scene in the colours of its RSUs, see `in_colours`.
    """
    return _save_four(path, *_compared(seam), picture_of(painted, seam.view)[0])


def draw_view(path: Path, image: Judged) -> Path:
    """Photo and render above; four times their difference, and the render's depth, near bright, below."""
    return _save_four(path, *_compared(image), colour_depth(image.depth_m))


def _compared(image: Judged) -> tuple[ndarray, ...]:
    photo, render, error = np.split(comparison(image.photo, image.render), 3, axis=1)
    return photo, render, np.where(image.counted[..., None], error, 0).astype(np.uint8)


def _save_four(path: Path, *four: UInt8[ndarray, "h w 3"]) -> Path:
    height, width, _ = four[0].shape
    sheet = np.full((2 * height + GAP_PX, 2 * width + GAP_PX, 3), 255, np.uint8)
    for number, picture in enumerate(four):
        top, left = (number // 2) * (height + GAP_PX), (number % 2) * (width + GAP_PX)
        sheet[top : top + height, left : left + width] = picture
    Image.fromarray(sheet).save(path, optimize=True)
    return path


def _owners(survey: Survey, extent_m: tuple[float, float, float, float]) -> tuple[list[str], ndarray]:
    """Names of all RSUs, and on a grid the index of the one whose region it is."""
    left, right, low, high = extent_m
    cell_m = max(right - left, high - low) / CELLS
    east_m, north_m = np.arange(left, right, cell_m) + cell_m / 2, np.arange(low, high, cell_m) + cell_m / 2
    grid_m = np.stack(np.meshgrid(east_m, north_m), axis=-1)
    flat = torch.nn.functional.pad(torch.from_numpy(grid_m.reshape(-1, 2)), (0, 1))  # at height 0
    names = list(survey.plan.rsus)
    inside_m = torch.stack([survey.plan.rsu_region(rsu)(flat) for rsu in names])
    return names, inside_m.argmax(dim=0).numpy().reshape(grid_m.shape[:2])


def _extent(survey: Survey) -> tuple[float, float, float, float]:
    """West, east, south and north ends of the map."""
    low_m, high_m = centres_m(survey).min(axis=0) - MARGIN_M, centres_m(survey).max(axis=0) + MARGIN_M
    return float(low_m[0]), float(high_m[0]), float(low_m[1]), float(high_m[1])


def _darker(colour: Colour, share: float) -> Colour:
    red, green, blue = ((1 - share) * value for value in colour)
    return red, green, blue


def _figure(width_in: float, height_in: float, columns: int = 1, ratios: Sequence[float] | None = None) -> Any:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False, width_ratios=ratios)[0]
    return figure, axes[0] if columns == 1 else axes


def _saved(figure: Figure, path: Path) -> Path:
    return save_figure(figure, path, dpi=100)
