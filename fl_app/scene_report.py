"""The page that a reconstruction leaves behind: figures, map, seams, views, curves, and what uploads give away."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from fl_app.atomic_files import write_text_file
from fl_app.history import History
from fl_app.run_config import RunConfig
from fl_app.scene_judged import Border, Judged, borders_between, in_colours, judged_images, seam_images
from fl_app.scene_leakage import VehicleLeakage, leakages
from fl_app.scene_page import Picture, Section, page
from fl_app.scene_pictures import (
    Colour,
    draw_curves,
    draw_from_above,
    draw_map,
    draw_placing,
    draw_seam,
    draw_view,
    draw_way,
    rsu_colours,
)
from fl_app.scene_tables import figures, given_away, refused, replanned_line, settings
from fl_app.survey import Survey
from recon.partition import save_picture
from strategies.gaussian_state import FusionState

REPORT: Final = "report.html"
VIEWS, SEAMS = 6, 16  # pictures of each kind, at most


def write_report(
    folder: Path,
    survey: Survey,
    state: FusionState,
    history: History,
    config: RunConfig,
    *,
    leaks: Sequence[VehicleLeakage] | None = None,
) -> list[Path]:
    """Write `report.html`, which needs no other file, and its pictures beside it.

    Args:
        folder: of the run.
        survey: who covered what, with the images that were held back.
        state: at the end, or after any round.
        history: what was measured by round.
        config: of the run.
        leaks: what uploads give away, see `scene_leakage`; measured here by default.

    Returns:
        what was written, the page first.
    """
    plan = survey.active_plan(besides=sorted(state.base))
    colours = rsu_colours(survey.plan.rsus)
    borders = borders_between(survey)
    judged = judged_images(survey, state)
    leaks = leakages(survey, state) if leaks is None else leaks
    sections = [
        figures(survey, state, history, plan),
        _map(folder, survey, state, config, colours),
        _placing(folder, survey, state, history, colours),
        _seams(folder, state, borders, judged, colours),
        _way(folder, survey, borders, judged, colours),
        _views(folder, judged),
        _rounds(folder, history),
        refused(state, history),
        given_away(leaks, config.margin_m),
        settings(config),
    ]
    pictures = [picture.path for section in sections for picture in section.pictures]
    lead = f"{survey.name}; rounds: {state.round}; vehicles: {len(survey.vehicles)}. Licence: {survey.licence}."
    html = page(f"Reconstruction {folder.name}", lead, sections)
    write_text_file(folder / REPORT, lambda file: file.write(html))
    return [folder / REPORT, *pictures]


def _map(folder: Path, survey: Survey, state: FusionState, config: RunConfig, colours: Mapping[str, Colour]) -> Section:
    pictures = [Picture(draw_map(folder / "map.png", survey, sorted(state.scene), colours), "Regions and stretches.")]
    save_picture(folder / "partition.png", survey.problem, survey.partitions)
    caption = "Frames by RSU: nearest (Voronoi), with boundaries moved (HWP), and how long each RSU takes."
    pictures.append(Picture(folder / "partition.png", caption))
    if state.scene:
        above = draw_from_above(folder / "above.png", survey, state, colours)
        pictures.append(Picture(above, "The scene's Gaussians from above."))
    present = sorted(state.scene)
    absent = sorted(set(survey.plan.rsus) - set(present))
    text = f"In the scene: {', '.join(present) or 'nothing yet'}." + (
        f" Not in it: {', '.join(absent)}." * bool(absent)
    )
    again = replanned_line(survey, config, state.missing)
    more = (f"{again[0].upper()}{again[1:]}.",) if again else ()
    return Section("Map", (text, *more, "Triangles are RSUs, numbers are vehicles."), pictures=tuple(pictures))


def _placing(
    folder: Path, survey: Survey, state: FusionState, history: History, colours: Mapping[str, Colour]
) -> Section:
    path = draw_placing(folder / "placing.png", survey, state, colours)
    if path is None:
        return Section("Alignment", ("No vehicle is aligned yet.",))
    lost = [vehicle.vehicle for vehicle in survey.vehicles if vehicle.vehicle not in state.world_from]
    text = [
        "Where vehicles were by their own positioning, and where alignment put them, against where they truly were. "
        "Only a simulation knows: no pose is sent."
    ]
    if errors := history.series("align/error-m"):
        steps = ", ".join(f"{value:.3f} m" for _, value in errors)
        text.append(
            f"Mean error of cameras: {history.series('align/seed-m')[-1][1]:.3f} m as positioned, then {steps}."
        )
    if links := [count for _, count in history.series("align/links") if count]:
        felt = sum(count for _, count in history.series("align/links-lidar"))
        text.append(f"Neighbours were found {felt:.0f} times by LiDAR, {sum(links) - felt:.0f} times by images.")
    if lost:
        text.append(f"Not aligned, for want of an upload: {', '.join(lost)}.")
    if alone := [v.vehicle for v in survey.vehicles if history.series(f"vehicle/{v.vehicle}/unplaced")]:
        text.append(f"Pair by pair nothing tied these to a place that is known: {', '.join(alone)}.")
    caption = "Arrows point from where a stretch is to where it was put; lengths are larger than life."
    return Section("Alignment", tuple(text), pictures=(Picture(path, caption),))


def _seams(
    folder: Path,
    state: FusionState,
    borders: Sequence[Border],
    judged: Sequence[Judged],
    colours: Mapping[str, Colour],
) -> Section:
    inside = [border for border in borders if set(border.rsus) <= set(state.scene)]
    seams = seam_images(inside, judged)[:SEAMS]
    if not seams:
        return Section("Seams", ("No border between two RSUs of the scene is seen by a held-out image.",))
    painted, pictures = in_colours(state.scene, colours), []
    for number, (border, image) in enumerate(seams):
        name = f"{border.rsus[0]} | {border.rsus[1]} at {border.along_m:.0f} m"
        away_m = float(np.linalg.norm(border.place_m - image.place_m))
        path = draw_seam(folder / f"seam-{number}.png", image, painted)
        pictures.append(Picture(path, f"{name}: {image.vehicle}, {away_m:.1f} m away, {image.psnr_db:.1f} dB."))
    text = (
        "The held-out image nearest to each border between two RSUs, of those that look towards it. Above: photo and "
        "render. Below: four times their difference (black where vehicles and people are, which are not judged), and "
        "the render with each RSU's Gaussians in its colour of the map.",
    )
    return Section("Seams", text, pictures=tuple(pictures), small=True)


def _way(
    folder: Path, survey: Survey, borders: Sequence[Border], judged: Sequence[Judged], colours: Mapping[str, Colour]
) -> Section:
    if not judged:
        return Section("Along the way", ("No held-out image can be rendered.",))
    path = draw_way(folder / "way.png", survey, judged, borders, colours)
    mean_db = float(np.mean([image.psnr_db for image in judged]))
    text = (
        f"Held-out images as the scene renders them: {len(judged)}, {mean_db:.2f} dB on average. Vehicles measure "
        "with the exposures that they keep to themselves.",
    )
    return Section("Along the way", text, pictures=(Picture(path, "PSNR of held-out images along the way."),))


def _views(folder: Path, judged: Sequence[Judged]) -> Section:
    if not judged:
        return Section("Held-out views", ("There are none.",))
    pictures = []
    rows = np.unique(np.linspace(0, len(judged) - 1, min(VIEWS, len(judged))).round().astype(int))
    for number, image in enumerate(judged[int(row)] for row in rows):
        path = draw_view(folder / f"view-{number}.png", image)
        quality = f"{image.psnr_db:.1f} dB, SSIM {image.ssim:.2f}"
        pictures.append(Picture(path, f"{image.vehicle} ({image.rsu}) at {image.along_m:.0f} m: {quality}."))
    text = "Above: photo and render. Below: four times their difference, and the render's depth, near bright."
    return Section("Held-out views", (text,), pictures=tuple(pictures), small=True)


def _rounds(folder: Path, history: History) -> Section:
    picture = Picture(draw_curves(folder / "curves.png", history), "Quality and traffic by round.")
    text = "Vehicles fit in the first round."
    if judged := history.series("vehicles/psnr-db"):
        text += f" Their worlds were laid out and merged by round {judged[0][0]}; rounds after that refine."
    return Section("Rounds", (text,), pictures=(picture,))
