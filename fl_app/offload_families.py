"""What `convoy offload` can name: scenes, policies, predictors."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from edge.offload.mobility import PREDICTORS, MotionConfig, OraclePredictor, Predictor
from edge.offload.model import Assignment, OffloadPolicy
from edge.offload.policies import POLICIES
from edge.offload.refine import refine_by_union
from edge.offload.scenario import Situation
from edge.offload.scenes import LIVE, TRUTH_S, Scene, SceneRequest, open_scene, trace_scene

TOWN: Final = "town"
RANDOM: Final = "random"
ORACLE: Final = "oracle"
UNION: Final = "union"
SCENES: Final = (*LIVE, f"{TOWN}:PRESET", "FILE.xml (FCD)")


@dataclass(frozen=True)
class Decider:
    """Who decides: a policy, and what goes over its assignment with the geometry at hand."""

    policy: OffloadPolicy
    refine: Callable[[Situation, Assignment], Assignment] | None = None


def decider_of(name: str, seed: int) -> Decider:
    """Who decides, by the name of a policy.

    GO takes users in the order of the slot, which is that of their arrival on the road.

    Raises:
        ValueError: an unknown name.
    """
    if name == UNION:
        return Decider(POLICIES["ours"](seed), refine_by_union)
    return Decider(chosen("policy", name, POLICIES, UNION)(seed))


def open_any(name: str, request: SceneRequest, live: bool = False) -> Scene:
    """A scene of `edge.offload.scenes`, or the generated town's traffic with the town's own RSUs.

    Raises:
        ValueError: an unknown scene, or a value out of range.
        DataError: an unknown preset of the town.
    """
    if name.partition(":")[0] != TOWN:
        return open_scene(name, request, live)
    if live:
        raise ValueError(f"{name}: the town's traffic is generated at once, so it is not live")
    from perception.datasets.base import FleetRequest
    from perception.datasets.town.config import town_config
    from perception.datasets.town.layout import plan_town
    from perception.datasets.town.traffic import plan_day

    preset = name.partition(":")[2] or FleetRequest.preset
    config = town_config(FleetRequest(preset=preset, vehicles=0, size_px=(0, 0), seed=request.seed))
    layout = plan_town(config)
    start_s = config.warmup_s if request.start_s is None else request.start_s
    last_s = max(start_s - config.warmup_s, 0) + request.seconds + TRUTH_S
    day = plan_day(layout, config, 0, 1 + math.ceil(last_s * config.rate_hz))
    sites_m = request.sites_m or tuple((x, y) for x, y in layout.rsus_m.tolist())
    moving = [trace for trace in day.traces() if len(trace) > 1]
    return trace_scene(name, moving, replace(request, start_s=start_s, sites_m=sites_m))


def predictor_of(name: str, scene: Scene | None, gps_noise_m: float = 0.0) -> Predictor:
    """A new predictor that knows how noisy positions are; 0.1 m is the least that it believes.

    Raises:
        ValueError: an unknown name, or the oracle for a scene that is not recorded.
    """
    if name == ORACLE:
        if scene is None or scene.table is None:
            raise ValueError("the oracle knows recorded turns, and a live scene has none: choose another --predictor")
        return OraclePredictor(scene.table)
    return chosen("predictor", name, PREDICTORS, ORACLE)(MotionConfig(position_noise_m=max(gps_noise_m, 0.1)))


def chosen(what: str, name: str, family: Mapping[str, Any], *more: str) -> Any:
    """An entry of a family.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in family:
        raise ValueError(f"there is no {what} {name!r}; want one of {', '.join([*family, *more])}")
    return family[name]
