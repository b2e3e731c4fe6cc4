"""A street, the real strategy and the real vehicles in one process; and one that has all images, to compare with."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import _harness as harness
import torch
from fit import THRESHOLD_M, surface, warm_up
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from clients.gaussian_client import GaussianClient
from clients.gaussian_messages import JudgeRequest
from clients.gaussian_wire import encode_judge
from clients.messages import EvaluateReply, decode_request, encode_evaluate_reply, encode_hello, encode_train_reply
from fl_app.local_grid import LocalGrid
from fl_app.survey import Survey
from recon.evaluate import gains_between, mean_scores, score
from recon.fit import FitConfig, fit, start
from recon.gaussians import Gaussians
from recon.initial import initial_points
from recon.metrics import surface_metrics
from recon.poison import poisoned_frames
from recon.views import View, Views
from strategies.gaussian_config import FusionConfig
from strategies.gaussian_fusion import GaussianFusion
from strategies.gaussian_judging import mean_metrics
from strategies.gaussian_report import FusionReport
from strategies.gaussian_scene import in_world
from strategies.gaussian_state import FusionState


@dataclass(frozen=True)
class Outcome:
    """What one reconstruction came to."""

    scene: Gaussians
    psnr_db: float
    border_db: float
    f_score: float
    cpu_s: float

    def row(self, name: str) -> harness.Row:
        """For a table."""
        figures = {"psnr_db": self.psnr_db, "border_db": self.border_db, "f_score": self.f_score, "cpu_s": self.cpu_s}
        return {"scene": name, "Gaussians": len(self.scene), **figures}


@dataclass(frozen=True)
class Federation:
    """A finished federated run."""

    survey: Survey
    clients: Mapping[str, GaussianClient]
    strategy: GaussianFusion
    reports: tuple[FusionReport, ...]
    cpu_s: float

    @property
    def state(self) -> FusionState:
        """Of the strategy."""
        return self.strategy.state

    def judged(self, scene: Gaussians) -> dict[str, float]:
        """What vehicles say of a scene."""
        return mean_metrics(self._judged_by(vehicle, scene) for vehicle in sorted(self.state.world_from))

    def _judged_by(self, vehicle: str, scene: Gaussians) -> EvaluateReply:
        plan = self.strategy.plan
        places = (plan[vehicle].waypoints_m, plan.others_m(vehicle))
        request = JudgeRequest(scene, self.state.world_from[vehicle], *places, self.strategy.config.border_m)
        return self.clients[vehicle].judge(encode_judge(request))

    def outcome(self, scene: Gaussians, cpu_s: float) -> Outcome:
        """With what vehicles say, and the surface."""
        means = self.judged(scene)
        return Outcome(scene, means["psnr-db"], means["border-psnr-db"], f_score(scene, self.survey), cpu_s)

    def parts(self) -> dict[str, Gaussians]:
        """Uploads in the world of all."""
        return in_world(self.state.parts, self.state.world_from)


def federate(
    survey: Survey, config: FusionConfig, poisoned: str = "", earlier: FusionState | None = None
) -> Federation:
    """The real strategy and the real clients on Flower's grid, in this process.

    Args:
        survey: the street.
        config: of the strategy.
        poisoned: vehicle whose images are poisoned, if any.
        earlier: how the run ended that regions are added to.
    """
    clients = {}
    for vehicle in survey.vehicles:
        if vehicle.vehicle == poisoned:
            vehicle = replace(vehicle, train=poisoned_frames(vehicle.train))
        clients[vehicle.vehicle] = GaussianClient(vehicle, vehicle.learned(), vehicle.judged())
    names, reports = sorted(clients), list[FusionReport]()
    state = earlier.added_to() if earlier else FusionState()
    plan = survey.active_plan(besides=sorted(state.base))
    strategy = GaussianFusion(replace(config, vehicles=len(names)), plan, state, on_round=reports.append)
    grid = LocalGrid(_app([clients[name] for name in names]), len(names), {}, workers=1)
    warm_up()
    began_s = time.process_time()
    strategy.start(grid, ArrayRecord(), num_rounds=strategy.config.num_rounds)
    cpu_s = time.process_time() - began_s
    grid.close()
    return Federation(survey, clients, strategy, tuple(reports), cpu_s)


def quiet() -> None:
    """One thread, and no log of Flower's."""
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)


def _app(clients: list[GaussianClient]) -> ClientApp:
    app = ClientApp()

    def of(context: Context) -> GaussianClient:
        return clients[int(context.node_config["partition-id"])]

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return encode_hello(of(context).hello(), message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return encode_train_reply(of(context).work(decode_request(message)), message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return encode_evaluate_reply(EvaluateReply(1), message)  # judged once, at the end

    return app


def centralised(survey: Survey, config: FusionConfig, cap: int) -> Outcome:
    """All images in one place, with the steps that all vehicles take together; it starts as `convoy recon fit` does."""
    held_back = set(survey.judged)
    train = [survey.frames[index] for index in range(len(survey.frames)) if index not in held_back]
    ignore = survey.vehicles[0].ignore
    views = Views(train, ignore=ignore, with_depth=True, lidar_first=True)
    steps = round((config.fit_steps + config.refine_rounds * config.refine_steps) * len(survey.frames))
    settings = FitConfig(steps, cap, visible_only=True)
    warm_up()
    began_s = time.process_time()
    points = initial_points(train, settings.start_points, seed=0, ignore=ignore)
    state = start(points.gaussians(), settings, views)
    fit(state, settings, views)
    cpu_s = time.process_time() - began_s
    scene, judged = state.gaussians.detach(), judged_views(survey)
    scores = score(scene, judged, gains_between(state.log_gains, views, judged))
    border = [scores[place] for place in border_places(survey, config.border_m)]
    means, near = mean_scores(scores), mean_scores(border)
    return Outcome(scene, means["psnr_db"], near["psnr_db"], f_score(scene, survey), cpu_s)


def judged_views(survey: Survey) -> list[View]:
    """Images that were held back, where they truly were taken."""
    frames = [survey.frames[index] for index in survey.judged]
    return list(Views(frames, ignore=survey.vehicles[0].ignore, with_depth=True))


def border_places(survey: Survey, border_m: float) -> list[int]:
    """Which of them were taken near a border."""
    places = []
    for place, index in enumerate(survey.judged):
        centre = torch.tensor(survey.frames[index].camera.world_from_cam.translation_m[None])
        vehicle = survey.plan.stretches[int(survey.owner[index])].vehicle
        if abs(float(survey.plan.region(vehicle)(centre)[0])) < border_m:
            places.append(place)
    return places


def f_score(scene: Gaussians, survey: Survey) -> float:
    """Of the surface that held-out images show, against what is there; NaN where nobody knows that."""
    views = judged_views(survey)
    if survey.frames[survey.judged[0]].depth_m is None:
        return math.nan
    found, true = (torch.cat([surface(what, view) for view in views]) for what in (scene, None))
    return surface_metrics(found, true, THRESHOLD_M).f_score
