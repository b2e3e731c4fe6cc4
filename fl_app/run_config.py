"""The only reader of the run config: strict, typed, and complaining about every bad field at once."""

import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from fl_app.run_folder import check_run_name
from fl_app.scene_config import SceneFields
from fl_app.survey import SurveyRequest
from fl_app.survey_split import active_vehicles
from fl_app.topology_file import read_topology
from perception.datasets import FLEETS, TOWN, FleetRequest
from strategies.accumulator import RuleConfig
from strategies.aggregation import ROOT_RULES, RULES
from strategies.gate import GateConfig
from strategies.gaussian_config import FusionConfig
from strategies.hierarchical_config import HierarchicalConfig
from strategies.profile import PROFILES
from strategies.rsu_round import Participation
from strategies.server_optimizer import ServerOptimizerConfig
from strategies.topology import GivenTopology

# Where `server-learning-rate` is 0. FedAdam moves every weight by about its rate in each cloud round.
SERVER_LEARNING_RATES = {"fedavg": 1.0, "fedprox": 1.0, "fedavgm": 1.0, "fedadam": 0.03}
NO_HOLDOUT = "none"
ROOT_FRAMES = 8  # that a tier holds itself, at most, for the rules that take some
LONGEST_S = 1e8  # three years: what clocks and waits still bear
SERVER_FILES = frozenset({"topology"})
ENGINE_KEYS = frozenset({"tier"})  # set per SuperLink or SuperNode, not by the user of a run


class ConfigError(ValueError):
    """The run config is wrong; the text lists every bad field with what is allowed."""


class RunConfig(SceneFields):
    """A federated run, field by field as in `[tool.flwr.app.config]` (there with dashes)."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    task: Literal["perception", "reconstruction"] = "perception"
    data: Literal[*FLEETS] = "town"  # type: ignore[valid-type]
    data_path: str = ""
    holdout_path: str = ""
    preset: str = "village"
    frames_per_vehicle: int = Field(0, ge=0)
    image_height: int = Field(128, ge=32, multiple_of=32)
    image_width: int = Field(384, ge=32, multiple_of=32)

    vehicles: int = Field(6, ge=1)
    rsus: int = Field(2, ge=1)
    hierarchy: Literal["rsu", "flat"] = "rsu"
    cloud_rounds: int = Field(10, ge=1)
    rsu_rounds: int = Field(2, ge=1)
    local_epochs: int = Field(1, ge=1)
    batch_size: int = Field(2, ge=1)
    learning_rate: float = Field(8e-3, gt=0)
    final_learning_rate: float = Field(4e-4, gt=0)
    warmup_steps: int = Field(4, ge=0)
    init: str = ""
    pretrain_epochs: int = Field(0, ge=0)

    strategy: Literal["fedavg", "fedprox", "fedavgm", "fedadam"] = "fedavg"
    proximal_mu: float = Field(0.01, ge=0)
    server_learning_rate: float = Field(0.0, ge=0)
    server_momentum: float = Field(0.9, ge=0, lt=1)
    server_beta_2: float = Field(0.99, ge=0, lt=1)
    server_tau: float = Field(1e-3, gt=0)

    fraction: float = Field(1.0, gt=0, le=1)
    over_selection: float = Field(0.0, ge=0)
    quorum: float = Field(0.5, ge=0, le=1)
    deadline_s: float = Field(600.0, gt=0, le=LONGEST_S)
    wall_timeout_s: float = Field(600.0, gt=0, le=LONGEST_S)
    profile: Literal["", *PROFILES] = "uniform"  # type: ignore[valid-type]
    rsu_rule: Literal[*RULES] = "mean"  # type: ignore[valid-type]
    cloud_rule: Literal[*RULES] = "mean"  # type: ignore[valid-type]
    trim_fraction: float = Field(0.2, ge=0, lt=0.5)
    byzantine: int = Field(1, ge=0)
    clip_norm: float = Field(10.0, gt=0)
    max_examples: int = Field(1_000_000, ge=1)
    max_update_ratio: float = Field(3.0, gt=0)
    max_norm_growth: float = Field(10.0, ge=0)
    max_weight_ratio: float = Field(3.0, ge=0)
    topology: str = ""

    seed: int = Field(0, ge=0, lt=2**63)
    evaluate_every: int = Field(1, ge=0)
    join_timeout_s: float = Field(120.0, gt=0, le=LONGEST_S)
    output_dir: str = "runs"
    run_name: Annotated[str, AfterValidator(check_run_name)] = ""
    resume: str = ""
    experiment: str = "convoy"
    tracking_uri: str = ""

    @property
    def num_rounds(self) -> int:
        """RSU rounds in all."""
        return self.cloud_rounds * self.hierarchical.rsu_rounds

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.image_height, self.image_width

    @property
    def fleet_request(self) -> FleetRequest:
        """The same on server and vehicles, so that both see one division of the data."""
        return FleetRequest(
            path=Path(self.data_path) if self.data_path else None,
            vehicles=self.vehicles,
            seed=self.seed,
            size_px=self.size_px,
            frames_per_vehicle=self.frames_per_vehicle,
            preset=self.preset,
            root_frames=ROOT_FRAMES if self.trusts_root else 0,
        )

    @property
    def trusts_root(self) -> bool:
        """Whether a rule takes labelled frames of the server's own."""
        return not ROOT_RULES.isdisjoint((self.rsu_rule, self.cloud_rule))

    @property
    def survey(self) -> SurveyRequest:
        """The same on server and vehicles, so that both see one street and one plan."""
        return SurveyRequest(
            path=Path(self.data_path) if self.data_path else None,
            seed=self.seed,
            size_px=self.size_px,
            frames=self.scene_frames,
            apart_m=self.scene_apart_m,
            rsus=self.rsus,
            vehicles=self.vehicles,
            overlap_m=self.overlap_m,
            speed_ratio=self.speed_ratio,
            gaussians_per_view=self.gaussians_per_view,
            misplaced=self.misplaced,
            anchors=self.anchors,
            rsu_names=self.regions_wanted,
            without=self.gone,
            slowed=self.speeds,
        )

    @property
    def fusion(self) -> FusionConfig:
        """Settings of the reconstruction's strategy.

        Raises:
            ValueError: no such data, vehicle or RSU, too few vehicles, or a value is out of range.
        """
        if self.data != "town" and not self.data_path:
            raise ValueError(
                f"data = {self.data!r}: a reconstruction takes the town, or recorded data by its folder alone: give "
                "data-path=FOLDER of a drive with poses (docs/data.md)"
            )
        active = active_vehicles(self.vehicles, self.rsus, self.regions_wanted, self.gone, dict(self.speeds))
        return FusionConfig(
            fit_steps=self.fit_steps,
            align_rounds=self.align_rounds,
            refine_rounds=self.refine_rounds,
            refine_steps=self.refine_steps,
            momentum=self.momentum,
            block_weighting=self.block_weighting,
            landmarks=self.landmarks,
            margin_m=self.margin_m,
            sight_m=self.sight_m,
            vehicles=len(active),
            join_timeout_s=self.join_timeout_s,
            fraction=self.fraction,
            quorum=self.quorum,
            seed=self.seed,
            given=self._given,
        )

    @property
    def _given(self) -> GivenTopology | None:
        return read_topology(Path(self.topology)) if self.topology else None

    @property
    def hierarchical(self) -> HierarchicalConfig:
        """Settings of the strategy; a flat run is one group that the cloud serves itself."""
        flat = self.hierarchy == "flat"
        given = self._given
        rsus = len(given.rsus) if given else self.rsus
        return HierarchicalConfig(
            vehicles=self.vehicles,
            rsus=1 if flat else rsus,
            flat=flat,
            rsu_rounds=1 if flat else self.rsu_rounds,
            local_epochs=self.local_epochs,
            evaluate_every=self.evaluate_every,
            participation=Participation(self.fraction, self.over_selection, self.quorum, self.deadline_s),
            gate=GateConfig(self.max_examples, self.max_update_ratio, self.max_norm_growth, self.max_weight_ratio),
            rsu_rule=self.rsu_rule,
            cloud_rule=self.cloud_rule,
            rule=RuleConfig(self.trim_fraction, self.byzantine, self.clip_norm),
            server=ServerOptimizerConfig(
                "fedavg" if self.strategy == "fedprox" else self.strategy,
                self.server_learning_rate or SERVER_LEARNING_RATES[self.strategy],
                self.server_momentum,
                self.server_beta_2,
                self.server_tau,
            ),
            profile=self.profile,
            seed=self.seed,
            join_timeout_s=self.join_timeout_s,
            given=given.as_one_group() if given and flat else given,
        )

    @property
    def reply_timeout_s(self) -> float:
        """How long a vehicle may take on the wall clock; where time is simulated, the deadline is on that alone."""
        return self.wall_timeout_s if self.task == "perception" and self.profile else self.deadline_s

    def as_flower(self) -> dict[str, Any]:
        """Back to the flat mapping that Flower carries."""
        return self.model_dump(by_alias=True)


def parse_at_vehicle(values: Mapping[str, Any]) -> RunConfig:
    """Reads a run config on a vehicle, without the keys that name files of the server's.

    Raises:
        ConfigError: as `parse` does.
    """
    return parse({key: value for key, value in values.items() if key not in SERVER_FILES})


def parse(values: Mapping[str, Any]) -> RunConfig:
    """Read a run config as Flower hands it over.

    Raises:
        ConfigError: one line per unknown key, wrong type, value out of range, or contradiction.
    """
    given = {key: _loosen(key, value) for key, value in values.items() if key not in ENGINE_KEYS}
    try:
        config = RunConfig(**given)
        config.hierarchical if config.task == "perception" else config.fusion  # noqa: B018  cross-field checks
        _check_holdout(config)
    except ValidationError as error:
        raise ConfigError("\n".join(_line(problem) for problem in error.errors())) from None
    except ValueError as error:
        raise ConfigError(f"run config: {error}") from None
    return config


def _check_holdout(config: RunConfig) -> None:
    where = f"holdout-path = {config.holdout_path!r}"
    if config.holdout_path == NO_HOLDOUT and config.trusts_root:
        rules = " and ".join(sorted(ROOT_RULES))
        raise ValueError(f"{where}: the rules {rules} take frames of the server's own: name a folder that holds some")
    if config.holdout_path == TOWN and config.data != TOWN:
        raise ValueError(f"{where}: the generated town's holdout goes with data = 'town', not {config.data!r}")


def data_root() -> Path | None:
    """The folder of real data sets that the environment names, if any."""
    value = os.environ.get("CONVOY_DATA")
    return Path(value) if value else None


def _loosen(key: str, value: Any) -> Any:
    """A whole number is welcome where a float is meant; nothing else is converted."""
    field = RunConfig.model_fields.get(key.replace("-", "_"))
    if field is None or field.annotation is not float or type(value) is not int or abs(value) > sys.float_info.max:
        return value
    return float(value)


def _line(problem: Any) -> str:
    key = str(problem["loc"][0]) if problem["loc"] else "run config"
    if problem["type"] == "extra_forbidden":
        known = [name.replace("_", "-") for name in RunConfig.model_fields]
        close = difflib.get_close_matches(key, known, n=1)
        return f"run config: unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    return f"run config: {key} = {problem['input']!r}: {problem['msg'].removeprefix('Value error, ').lower()}"
