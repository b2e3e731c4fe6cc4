"""A street rebuilt by many vehicles under several RSUs, whose images stay with them; and by one that has all images.

Twelve vehicles of 4:1 speeds under four RSUs drive a town; positioning of all but those that pass an RSU is off by 3 %,
1.3 degrees and 0.6 m. Every eighth image is held back. One thread per vehicle; PSNR is over images, then over seeds.

- `fedrecon.gap_to_central_db`: by how much the centralised fit on all images is better, with the same number of steps
  and of Gaussians, and exact poses.
- `fedrecon.border_gap_db`: the same at images within 6 m of a border between two vehicles.
- `fedrecon.over_concat_db`: by how much ours is better than all (aligned) uploads in one set.
- `fedrecon.align_error_m`: mean distance of cameras from where they were, of the vehicles whose positioning was off.
- `fedrecon.fscore_gap_points`: centralised minus ours; surfaces that held-out images show within 30 m, at 0.25 m.
- `fedrecon.poison_memory_ratio`: bytes that the RSU of a vehicle with poisoned images holds, over those without poison.

The table also has the uploads merged as positioning has them, aligned and merged, and the distillation of opacities
after Fed3DGS. `--quick` is one seed with four vehicles under two RSUs and smaller images. Without it, what misplacement
costs after alignment is measured too, a region is added to 2, 4, 8 and 16 others, and if `CONVOY_DATA` is set, a drive
of KITTI is rebuilt by two vehicles.
"""

import os
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import _harness as harness
import numpy as np
from _federation import Federation, Outcome, centralised, federate, quiet
from _harness import Claim

from clients.gaussian_messages import LIDAR
from fl_app.placement import placement_errors
from fl_app.survey import Survey, SurveyRequest, make_survey
from geometry import Sim3
from recon.distillation import opacity_distillation
from recon.gaussians import Gaussians
from recon.merge import Part, concat
from recon.views import placed
from strategies.gaussian_config import FusionConfig
from strategies.gaussian_fusion import GaussianFusion
from strategies.gaussian_scene import fused_at_rsu, fused_in_cloud, whole
from strategies.gaussian_state import FusionState

SEEDS = (31, 32, 33)
FULL = SurveyRequest(size_px=(192, 256))
QUICK = SurveyRequest(size_px=(96, 128), part=0.8, rsus=2, vehicles=4, gaussians_per_view=150)
POISON_PX: Final = (128, 192)
QUICK_POISON: Final[dict[str, Any]] = {"size_px": (64, 96), "part": 0.2}
KEPT = 0.85  # of the uploads, after borders are trimmed: what the centralised fit may have
KITTI = SurveyRequest(
    size_px=(160, 480), rsus=2, vehicles=2, overlap_m=20.0, speed_ratio=1.0, gaussians_per_view=1500, anchors="first"
)
ADDED_TO = (2, 4, 8, 16)
FUSION = FusionConfig(align_rounds=2, refine_rounds=8)


def central_of(request: SurveyRequest, config: FusionConfig, cap: int) -> Outcome:
    """`centralised`, in a process of its own."""
    quiet()
    return centralised(make_survey(request), config, cap)


def seed_rows(request: SurveyRequest, config: FusionConfig) -> tuple[list[harness.Row], dict[str, float]]:
    """One street: the scenes to compare, and what else was measured."""
    quiet()
    survey = make_survey(request)
    run = federate(survey, config)
    ours = run.outcome(whole(run.state.scene), run.cpu_s)
    parts = run.parts()
    listed = [Part(name, part, survey.plan.region(name)) for name, part in parts.items()]
    scenes: dict[str, Gaussians] = {"concatenated": concat(listed), "merged": merged(parts, survey, config)}
    cameras = {name: [placed(view, run.state.world_from[name]) for view in run.clients[name].learned] for name in parts}
    began_s = time.process_time()
    scenes["Fed3DGS-like"] = opacity_distillation(listed, cameras)
    cpu_s = {"Fed3DGS-like": time.process_time() - began_s}
    outcomes = {"not aligned": unaligned(run)}
    outcomes |= {name: run.outcome(scene, cpu_s.get(name, 0.0)) for name, scene in scenes.items()}
    rows = [outcome.row(name) for name, outcome in {**outcomes, "ours": ours}.items()]
    off = [v.vehicle for v in survey.vehicles if not survey.plan[v.vehicle].surveyed]
    errors = placement_errors(survey, run.state)
    facts = {
        "align_error_m": fmean(errors[f"vehicle/{name}/error-m"] for name in off),
        "seed_error_m": fmean(errors[f"vehicle/{name}/seed-m"] for name in off),
        **pair_errors(run),
        "up_mb": run.state.traffic.vehicle_up / 1e6,
        "down_mb": run.state.traffic.vehicle_down / 1e6,
    }
    return [{"seed": request.seed, **row} for row in rows], facts


def pair_errors(run: Federation) -> dict[str, float]:
    """How far from the truth neighbours found each other by LiDAR, before the pose graph: mean over cameras."""
    held, errors_m = {vehicle.vehicle: vehicle for vehicle in run.survey.vehicles}, list[float]()
    for link in (link for report in run.reports for link in report.links if link.by == LIDAR):
        a, b = held[link.a], held[link.b]
        centres_m = np.array([frame.camera.world_from_cam.translation_m for frame in b.train])
        found_m = link.a_from_b.apply(b.own_from_data.apply(centres_m))
        errors_m.append(float(np.linalg.norm(found_m - a.own_from_data.apply(centres_m), axis=1).mean()))
    if not errors_m:
        return {"lidar_pairs": 0.0}
    return {"lidar_pairs": float(len(errors_m)), "pair_median_m": median(errors_m), "pair_worst_m": max(errors_m)}


def unaligned(run: Federation) -> Outcome:
    """Uploads merged where positioning has them, and judged from there."""
    believed = {name: Sim3.identity() for name in run.state.parts}
    state = FusionState(parts=run.state.parts, world_from=believed)
    strategy = GaussianFusion(run.strategy.config, run.strategy.plan, state)
    return replace(run, strategy=strategy).outcome(merged(run.state.parts, run.survey, strategy.config), 0.0)


def merged(parts: Mapping[str, Gaussians], survey: Survey, config: FusionConfig) -> Gaussians:
    """Uploads merged, before any refinement."""
    scene: dict[str, Gaussians] = {}
    for rsu in survey.plan.rsus:
        own = {s.vehicle: parts[s.vehicle] for s in survey.plan.of_rsu(rsu) if s.vehicle in parts}
        scene[rsu] = fused_at_rsu(rsu, own, survey.plan, config)
    return whole(fused_in_cloud(scene, survey.plan, config))


def poison_facts(request: SurveyRequest, config: FusionConfig, misplaced: bool) -> dict[str, float]:
    """The same federation with and without one vehicle whose images are poisoned; and with exact positioning, if asked.

    Args:
        request, config: of the federation.
        misplaced: whether to measure what misplacement costs after alignment.
    """
    quiet()
    survey = make_survey(request)
    victim = next(v for v in survey.vehicles if not survey.plan[v.vehicle].surveyed)
    clean, poisoned = federate(survey, config), federate(survey, config, poisoned=victim.vehicle)
    held = [run.state.scene[victim.rsu].nbytes + uploads(run, victim.rsu) for run in (clean, poisoned)]
    quality = [run.judged(whole(run.state.scene))["psnr-db"] for run in (clean, poisoned)]
    seconds = [run.cpu_s for run in (clean, poisoned)]
    figures = {"bytes": held[1], "clean_bytes": held[0], "loss_db": quality[0] - quality[1]}
    figures["cpu_ratio"] = seconds[1] / seconds[0]
    if not misplaced:
        return figures
    exact = federate(make_survey(replace(request, misplaced=0.0)), config)
    misplaced_db = exact.judged(whole(exact.state.scene))["psnr-db"] - quality[0]
    return {**figures, "misplaced_loss_db": misplaced_db}


def adding_row(regions: int) -> harness.Row:
    """What it costs to add a region to so many, each with one vehicle, and what of the old ones changes."""
    quiet()
    count = regions + 1
    request = SurveyRequest(
        seed=SEEDS[0], size_px=(96, 128), frames=40 * count, rsus=count, vehicles=count, speed_ratio=1.0, misplaced=0.0
    )
    *old, new = make_survey(request).plan.rsus
    quick = replace(FUSION, fit_steps=2.0, align_rounds=1, refine_rounds=0)
    earlier = federate(make_survey(replace(request, rsu_names=tuple(old))), quick).state
    run, base = federate(make_survey(replace(request, rsu_names=(new,))), FUSION, earlier=earlier), earlier.scene
    within = FUSION.blend_m / 2
    kept, changed = 0, 0
    for rsu, before in base.items():
        inside = run.strategy.plan.rsu_region(rsu)(before.means) > within
        after = run.state.scene[rsu].select(~run.state.free[rsu])
        whole_kept = len(after) == len(before)  # out of sight of the new region
        wanted = before if whole_kept else before.select(inside)
        same = len(after) == len(wanted) and all(
            bool((a == b).all()) for a, b in zip(wanted.tensors().values(), after.tensors().values(), strict=True)
        )
        kept, changed = kept + int(inside.sum()), changed + (not same)
    views = sum(vehicle.views for vehicle in run.strategy.plan.of_rsu(new))
    return {"regions": regions, "Gaussians before": sum(map(len, base.values())), "cpu_s": run.cpu_s, "views": views,
            "kept": kept, "regions changed inside": changed}  # fmt: skip


def uploads(run: Federation, rsu: str) -> int:
    """Bytes of the uploads that an RSU holds."""
    return sum(part.nbytes for name, part in run.state.parts.items() if run.strategy.plan[name].rsu == rsu)


def main() -> None:
    arguments = harness.parse_arguments(__doc__ or "")
    (base, seeds), config = (QUICK, SEEDS[:1]) if arguments.quick else (FULL, SEEDS), FUSION
    rows, facts = list[harness.Row](), list[dict[str, float]]()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        requests = [replace(base, seed=seed) for seed in seeds]
        count = len(make_survey(requests[0]).frames)
        cap = round(KEPT * base.gaussians_per_view * count)
        central = [pool.submit(central_of, request, config, cap) for request in requests]
        ours = [pool.submit(seed_rows, request, config) for request in requests]
        attacked = replace(requests[0], **(QUICK_POISON if arguments.quick else {"size_px": POISON_PX}))
        shorter = replace(config, refine_rounds=2, refine_steps=4.0)
        poison = pool.submit(poison_facts, attacked, shorter, misplaced=not arguments.quick)
        for request, theirs, mine in zip(requests, central, ours, strict=True):
            found, measured = mine.result()
            street = [*found, {"seed": request.seed, **theirs.result().row("centralised")}]
            harness.print_table(f"street {request.seed}", street)
            rows += street
            facts.append(measured)
        adding = [] if arguments.quick else list(pool.map(adding_row, ADDED_TO))
        poisoned = poison.result()
        recorded = None if arguments.quick else recorded_rows(pool)
    harness.write_csv(arguments.out / "federated_recon.csv", rows)
    harness.print_table("federation", [{"seed": s, **f} for s, f in zip(seeds, facts, strict=True)])
    harness.print_table("one vehicle poisoned; what misplacement costs after alignment", [poisoned])
    if recorded:
        harness.write_csv(arguments.out / "federated_recon_kitti.csv", recorded)
        harness.print_table("KITTI raw 0005 as two vehicles; no claim", recorded)
    if adding:
        harness.write_csv(arguments.out / "federated_recon_adding.csv", adding)
        harness.print_table("a region is added", adding)
    harness.print_claims(claims_of(rows, facts, poisoned, len(seeds)))


def recorded_rows(pool: ProcessPoolExecutor) -> list[harness.Row]:
    """The same comparison on a drive that was recorded, cut in two, if `CONVOY_DATA` is set."""
    data = os.environ.get("CONVOY_DATA")
    if not data:
        return []
    request = replace(KITTI, path=Path(data) / "kitti_raw_0005")
    ours = pool.submit(seed_rows, request, FUSION).result()
    cap = next(int(str(row["Gaussians"])) for row in ours[0] if row["scene"] == "ours")
    central = pool.submit(central_of, request, FUSION, cap).result()
    harness.print_table("federation on KITTI raw 0005", [ours[1]])
    return [*ours[0], {"seed": request.seed, **central.row("centralised")}]


def claims_of(rows: list[Any], facts: list[dict[str, float]], poisoned: dict[str, float], n: int) -> list[Claim]:
    """The line at the end."""

    def mean(scene: str, column: str) -> float:
        return fmean(float(row[column]) for row in rows if row["scene"] == scene)

    ours, best = ({c: mean(s, c) for c in ("psnr_db", "border_db", "f_score")} for s in ("ours", "centralised"))
    over = mean("concatenated", "psnr_db")
    error, before = (fmean(fact[key] for fact in facts) for key in ("align_error_m", "seed_error_m"))
    f_gap = 100 * (best["f_score"] - ours["f_score"])
    gap, border = best["psnr_db"] - ours["psnr_db"], best["border_db"] - ours["border_db"]
    ratio = poisoned["bytes"] / poisoned["clean_bytes"]
    return [
        Claim("fedrecon.gap_to_central_db", ours["psnr_db"], best["psnr_db"], gap, "dB", n),
        Claim("fedrecon.border_gap_db", ours["border_db"], best["border_db"], border, "dB", n),
        Claim("fedrecon.over_concat_db", ours["psnr_db"], over, ours["psnr_db"] - over, "dB", n),
        Claim("fedrecon.align_error_m", error, before, error, "m", n),
        Claim("fedrecon.fscore_gap_points", 100 * ours["f_score"], 100 * best["f_score"], f_gap, "points", n),
        Claim("fedrecon.poison_memory_ratio", poisoned["bytes"], poisoned["clean_bytes"], ratio, "bytes", 1),
    ]


if __name__ == "__main__":
    main()
