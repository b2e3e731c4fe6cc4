"""What vehicles are asked to do with their images: fit, refine, judge. `gaussian_aligning` asks them for each other."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from clients.gaussian_messages import FitRequest, JudgeRequest, RefineRequest
from clients.gaussian_wire import OTHER, OTHER_MARKS, encode_fit, encode_judge, encode_refine
from clients.messages import TrainRequest
from recon.compressed import compress_gaussians
from recon.gaussians import Gaussians
from recon.plan import Plan
from strategies.arithmetic import share_of
from strategies.gaussian_config import FusionConfig
from strategies.gaussian_scene import Around, around, size_limit, whole
from strategies.gaussian_state import FusionState


def fit_requests(plan: Plan, config: FusionConfig, here: Iterable[str]) -> dict[str, TrainRequest]:
    """Every vehicle fits its stretch, the more steps the more views it has."""
    requests, limit = {}, size_limit(plan, config)
    for vehicle in here:
        stretch = plan[vehicle]
        places = (stretch.waypoints_m, plan.others_m(vehicle))
        steps = max(1, round(config.fit_steps * stretch.views))
        budget, margin_m = stretch.max_gaussians, config.margin_m
        asked = FitRequest(*places, steps, budget, margin_m, config.seed, config.landmarks, limit)
        requests[vehicle] = encode_fit(asked)
    return requests


def chosen(state: FusionState, plan: Plan, config: FusionConfig, here: Collection[str], number: int) -> list[str]:
    """Who refines in a round: those whose world is known, a share of each RSU's."""
    names = list[str]()
    for index, rsu in enumerate(plan.rsus):
        own = [stretch.vehicle for stretch in plan.of_rsu(rsu)]
        ready = [vehicle for vehicle in own if vehicle in state.world_from and vehicle in here]
        rng = np.random.default_rng([config.seed, number, index])
        count = share_of(config.fraction, len(ready))
        names += [ready[int(row)] for row in sorted(rng.choice(len(ready), count, replace=False))]
    return names


def seen_by(state: FusionState, plan: Plan, config: FusionConfig, vehicles: Iterable[str]) -> dict[str, Around]:
    """The part of the scene that each is sent; those around whom there is nothing are left out."""
    everything = whole(state.scene)
    sight = (config.sight_m, config.far_share)
    there = {name: around(everything, plan[name].waypoints_m, *sight) for name in vehicles}
    return {name: part for name, part in there.items() if len(part.rows)}


def refine_requests(
    state: FusionState, plan: Plan, config: FusionConfig, sent: Mapping[str, Around], number: int
) -> dict[str, TrainRequest]:
    """Some steps from the scene of all, `sent`, at each vehicle's own images."""
    taught = config.momentum and state.teacher and number
    teacher, limit = whole(state.teacher) if taught else None, size_limit(plan, config)
    return {
        vehicle: encode_refine(
            RefineRequest(
                scene=there.gaussians,
                world_from_own=state.world_from[vehicle],
                steps=max(1, round(config.refine_steps * plan[vehicle].views)),
                round_number=number,
                pace=config.pace_at(number),
                rate=config.rate_at(number),
                seed=config.seed,
                teacher=None if teacher is None else teacher.select(there.rows),
                report_quality=config.block_weighting,
                limit=limit,
            )
        )
        for vehicle, there in sent.items()
    }


def judge_requests(
    state: FusionState, plan: Plan, config: FusionConfig, vehicles: Iterable[str]
) -> dict[str, TrainRequest]:
    """How good is the scene, at images that were held back? All of it, as whoever looks at it sees it."""
    requests, everything = {}, whole(state.scene)
    for vehicle in vehicles:
        places = (plan[vehicle].waypoints_m, plan.others_m(vehicle))
        requests[vehicle] = encode_judge(JudgeRequest(everything, state.world_from[vehicle], *places, config.border_m))
    return requests


def bytes_to_rsus(everything: Gaussians, plan: Plan, sent: Mapping[str, Around]) -> int:
    """What the cloud sends of a scene: to each RSU once all that its vehicles are sent."""
    rows: dict[str, Tensor] = {}
    for vehicle, there in sent.items():
        rsu = plan[vehicle].rsu
        rows[rsu] = torch.cat([rows[rsu], there.rows]).unique() if rsu in rows else there.rows
    return sum(compress_gaussians(everything.select(own)).nbytes for own in rows.values())


def bytes_between_rsus(requests: Mapping[str, TrainRequest], plan: Plan) -> dict[str, int]:
    """What requests to align take between RSUs and cloud, which passes on what vehicles of other RSUs sent.

    Up once whatever somebody else looks for, down once to each RSU that it is sent to; what an earlier run left lies in
    the cloud already. Of what each is sent another part of, the largest counts.
    """
    up, down = dict[str, int](), dict[tuple[str, str], int]()
    for vehicle, request in requests.items():
        rsu = plan[vehicle].rsu
        for key, values in request.arrays.items():
            owner = key.removeprefix(OTHER_MARKS).removeprefix(OTHER)
            if owner in plan and plan[owner].rsu == rsu:
                continue
            down[rsu, key] = max(values.nbytes, down.get((rsu, key), 0))
            if owner in plan:
                up[key] = max(values.nbytes, up.get(key, 0))
    return {"cloud_up": sum(up.values()), "cloud_down": sum(down.values())}
