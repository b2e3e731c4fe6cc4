"""The parts of a reconstruction's page that are text and tables."""

from collections.abc import Sequence
from typing import Final

from fl_app.console import megabytes
from fl_app.history import History
from fl_app.run_config import RunConfig
from fl_app.scene_config import SceneFields
from fl_app.scene_leakage import VehicleLeakage, by_treatment, means
from fl_app.scene_page import Section, Table
from fl_app.survey import Survey
from recon.compressed import compress_gaussians
from recon.partition import optimum_s
from recon.plan import Plan
from strategies.gaussian_state import FusionState

UNKNOWN: Final = "–"
LINKS: Final = {
    "vehicle-up": "vehicle to RSU",
    "vehicle-down": "RSU to vehicle",
    "cloud-up": "RSU to cloud",
    "cloud-down": "cloud to RSU",
}
SETTINGS: Final = ("data", "data_path", "image_height", "image_width", "vehicles", "rsus", "fraction", "quorum", "seed")
DROPPED: Final = {
    "fog": "hides what a camera on the planned way stands in",
    "unseen": "no camera on the planned way sees it",
    "crowded": "more in one place than neighbours have",
}


def figures(survey: Survey, state: FusionState, history: History, plan: Plan) -> Section:
    """Quality, placing, size and traffic in all; and by RSU and by vehicle."""
    total = sum(len(gaussians) for gaussians in state.scene.values())
    size = sum(gaussians.nbytes for gaussians in state.scene.values())
    lost = sum(sum(causes.values()) for causes in state.losses.values())
    rows = [
        ("PSNR of held-out images", _since_merge(history, "vehicles/psnr-db", " dB")),
        ("PSNR near borders of stretches", _since_merge(history, "vehicles/border-psnr-db", " dB")),
        ("held-out images near borders", _last(history, "vehicles/border-views", digits=0)),
        ("SSIM", _since_merge(history, "vehicles/ssim", "", 3)),
        ("depth off by", _since_merge(history, "vehicles/depth-abs-rel", " %", 1, 100)),
        ("cameras misplaced as positioned", _last(history, "align/seed-m", " m", 3)),
        ("cameras misplaced after alignment", _last(history, "align/error-m", " m", 3)),
        ("scene", f"{total} Gaussians, {megabytes(size)} in memory"),
        *((f"file scene.{kind}", _last_bytes(history, f"bytes/scene-{kind}")) for kind in ("ply", "spz")),
        *((text, megabytes(getattr(state.traffic, name.replace("-", "_")))) for name, text in LINKS.items()),
        ("answers that counted, and that did not", f"{state.accepted}, {lost}"),
        ("wall time of all rounds", f"{sum(value for _, value in history.series('time/wall-s')):.0f} s"),
    ]
    text = (
        "Quality is what vehicles measured at images that they held back, with the exposures that they keep to "
        "themselves. Traffic is payload as it is sent, compressed; what judging sends is not in it.",
    )
    table = Table("All", ("figure", "value"), tuple(row for row in rows if row[1] != UNKNOWN))
    return Section("Figures", text, (table, _rsu_table(state, history, plan), _vehicle_table(survey, state, history)))


def _rsu_table(state: FusionState, history: History, plan: Plan) -> Table:
    rows = []
    for rsu in sorted({*plan.rsus, *state.scene}):
        vehicles = [stretch.vehicle for stretch in plan.of_rsu(rsu)]
        sent = [state.parts[vehicle] for vehicle in vehicles if vehicle in state.parts]
        held = state.scene.get(rsu)
        rows.append(
            (
                rsu + (" (from before)" if rsu in state.base else ""),
                str(len(vehicles)),
                f"{sum(map(len, sent))}" if sent else UNKNOWN,
                megabytes(sum(compress_gaussians(part).nbytes for part in sent)) if sent else UNKNOWN,
                UNKNOWN if held is None else f"{len(held)}",
                UNKNOWN if held is None else megabytes(held.nbytes),
                _last(history, f"rsu/{rsu}/psnr-db"),
                _last(history, f"rsu/{rsu}/border-psnr-db"),
            )
        )
    sizes = ("Gaussians sent", "compressed", "in the scene", "in memory")
    columns = ("RSU", "vehicles", *sizes, "PSNR, dB", "near borders")
    return Table("Roadside units (RSUs)", columns, tuple(rows))


def _vehicle_table(survey: Survey, state: FusionState, history: History) -> Table:
    rows = []
    for vehicle in survey.vehicles:
        name, part = f"vehicle/{vehicle.vehicle}", state.parts.get(vehicle.vehicle)
        rows.append(
            (
                vehicle.vehicle,
                vehicle.rsu,
                f"{len(vehicle.train)} + {len(vehicle.test)}",
                UNKNOWN if part is None else f"{len(part)}",
                _last(history, f"{name}/seed-m", digits=3),
                _last(history, f"{name}/error-m", digits=3),
                _last(history, f"{name}/psnr-db"),
                _last(history, f"{name}/border-psnr-db"),
            )
        )
    columns = ("vehicle", "RSU", "images", "Gaussians sent", "off, m", "aligned, m", "PSNR, dB", "near borders")
    return Table("Vehicles; images: learned from + held back", columns, tuple(rows))


def refused(state: FusionState, history: History) -> Section:
    """Gaussians that RSUs dropped by cause, and answers that did not count."""
    counts = {cause: sum(value for _, value in history.series(f"dropped/{cause}")) for cause in _causes(history)}
    dropped = tuple((cause, f"{count:.0f}", DROPPED.get(cause, "")) for cause, count in sorted(counts.items()))
    lost = [(who, cause, str(times)) for who, causes in state.losses.items() for cause, times in causes.items()]
    tables, text = [], []
    if dropped:
        tables.append(Table("Gaussians that RSUs did not take", ("cause", "Gaussians", "what it means"), dropped))
    else:
        text.append("No Gaussians were looked at in this run.")
    if lost:
        tables.append(Table("Answers that did not count", ("vehicle", "cause", "times"), tuple(lost)))
    else:
        text.append("Every answer counted.")
    return Section("What was dropped", tuple(text), tuple(tables))


def _causes(history: History) -> set[str]:
    return {
        name.removeprefix("dropped/") for row in history.rows.values() for name in row if name.startswith("dropped")
    }


def given_away(leaks: Sequence[VehicleLeakage], margin_m: float) -> Section:
    """What uploads show of their vehicles' images, see `scene_leakage`."""
    if not leaks:
        return Section("What uploads give away", ("No upload to measure.",))
    rows = []
    for name, parts in by_treatment(leaks).items():
        mean = means(parts)
        hidden = f"{mean['transient_psnr_db']:.1f}" if "transient_psnr_db" in mean else UNKNOWN
        title = "as sent" if name == "as-sent" else f"trimmed, margin {name.removeprefix('margin-')} m"
        outside = f"{100 * mean['outside_share']:.0f} %"
        rows.append((title, f"{mean['gaussians']:.0f}", outside, f"{mean['psnr_db']:.1f}", hidden))
    columns = ("upload", "Gaussians", "outside the region", "PSNR, dB", "vehicles and people, dB")
    text = (
        "How well an upload shows the images that its vehicle learned from, at poses that only the vehicle knows: as "
        f"it was sent (margin-m is {margin_m:g}), and trimmed to the vehicle's region with less of a margin. More dB "
        "is more of the photo. Vehicles and people are masked before learning; the last column is over their pixels.",
    )
    names = ", ".join(leak.vehicle for leak in leaks)
    return Section("What uploads give away", text, (Table(f"Means of {names}", columns, tuple(rows)),))


def settings(config: RunConfig) -> Section:
    """What the run was asked for."""
    names = [*SETTINGS, *SceneFields.model_fields]
    rows = tuple((name.replace("_", "-"), str(getattr(config, name))) for name in names if getattr(config, name) != "")
    return Section("Settings", (), (Table("Of this run", ("setting", "value"), rows),))


def replanned_line(survey: Survey, config: RunConfig, missing: Sequence[str]) -> str:
    """Because of whom the street was planned again, and what it took; empty if it was not.

    Args:
        survey: as it is now.
        config: of the run, with who falls out and who slows down.
        missing: vehicles that were not there when the run began.
    """
    slowed = [f"{name} (speed x {factor:g})" for name, factor in config.speeds]
    if not (names := [*config.gone, *missing, *slowed]):
        return ""
    return (
        f"planned again because of {', '.join(names)}: {survey.moved} of {len(survey.frames)} frames change hands, the "
        f"last vehicle is done at {survey.makespan_s / optimum_s(survey.problem):.2f} x the least possible"
    )


def _last(history: History, name: str, unit: str = "", digits: int = 2) -> str:
    series = history.series(name)
    return f"{series[-1][1]:.{digits}f}{unit}" if series else UNKNOWN


def _last_bytes(history: History, name: str) -> str:
    series = history.series(name)
    return megabytes(series[-1][1]) if series else UNKNOWN


def _since_merge(history: History, name: str, unit: str, digits: int = 2, factor: float = 1.0) -> str:
    series = history.series(name)
    if not series:
        return UNKNOWN
    first, last = (f"{factor * series[row][1]:.{digits}f}{unit}" for row in (0, -1))
    return last if len(series) == 1 else f"{last} (after the merge: {first})"
