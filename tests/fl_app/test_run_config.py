"""The run config: strict, and every complaint names the field."""

import tomllib
from pathlib import Path

import pytest

from fl_app.run_config import ConfigError, RunConfig, parse

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())


def test_the_app_lists_every_key_with_its_default() -> None:
    # `flwr run -c` refuses keys that the app's own config does not have.
    assert PYPROJECT["tool"]["flwr"]["app"]["config"] == RunConfig().as_flower()


def test_defaults_parse_and_survive_the_way_there_and_back() -> None:
    assert parse(parse({}).as_flower()) == RunConfig()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"clod-rounds": 3}, "did you mean 'cloud-rounds'"),
        ({"cloud_rounds": 3}, "did you mean 'cloud-rounds'"),
        ({"cloud-rounds": "3"}, "cloud-rounds = '3'"),
        ({"cloud-rounds": 2.5}, "cloud-rounds = 2.5"),
        ({"rsu-rounds": 0}, "rsu-rounds = 0"),
        ({"vehicles": 0}, "vehicles = 0"),
        ({"vehicles": True}, "vehicles = True"),
        ({"vehicles": 2, "rsus": 3}, "3 RSUs need at least as many vehicles, got 2"),
        ({"data": "imagenet"}, "'nuscenes', 'argoverse2' or 'waymo'"),
        ({"rsu-rule": "average"}, "rsu-rule = 'average'"),
        ({"image-width": 100}, "multiple of 32"),
        ({"quorum": 1.5}, "quorum = 1.5"),
        ({"learning-rate": 0.0}, "learning-rate = 0.0"),
        ({"profile": "fast"}, "profile = 'fast'"),
        ({"deadline-s": float("inf")}, "deadline-s = inf: input should be a finite number"),
        ({"join-timeout-s": float("inf")}, "join-timeout-s = inf: input should be a finite number"),
        ({"speed-ratio": float("nan")}, "speed-ratio = nan: input should be a finite number"),
    ],
)
def test_bad_values_are_named(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^run config: ") as raised:
        parse(values)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"slowed": "vehicle-3"}, "slowed = 'vehicle-3': write NAME:FACTOR"),
        ({"slowed": "vehicle-3:fast"}, "slowed = 'vehicle-3:fast': write NAME:FACTOR"),
        ({"slowed": "vehicle-3:0"}, "slowed = 'vehicle-3:0': factors must be positive and finite"),
        ({"slowed": "vehicle-3:nan"}, "factors must be positive and finite"),
        ({"slowed": "vehicle-3:inf"}, "factors must be positive and finite"),
        ({"slowed": "vehicle-3:2,vehicle-3:3"}, "slowed = 'vehicle-3:2,vehicle-3:3': a name comes twice"),
        ({"slowed": "rsu-0:2"}, "slowed: there is no rsu-0"),
        ({"without": "vehicle-9"}, "without: there is no vehicle-9"),
        ({"without": "rsu-0,rsu-1"}, "without: no vehicle is left"),
        ({"without": "rsu-0", "regions": "rsu-1"}, "leave `regions` empty"),
        ({"regions": "rsu-7"}, "regions: there is no rsu-7"),
        ({"data": "kitti", "vehicles": 1}, "data = 'kitti': .* give data-path=FOLDER"),
        ({"data": "camvid", "rsus": 1}, "data = 'camvid': .* give data-path=FOLDER"),
    ],
)
def test_a_reconstruction_that_cannot_be_is_one_line(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        parse({"task": "reconstruction", **values})
    assert str(raised.value).startswith("run config: ")
    assert len(str(raised.value).splitlines()) == 1


def test_who_falls_out_and_who_slows_down_reaches_the_survey() -> None:
    config = parse({"task": "reconstruction", "without": "rsu-0, vehicle-3", "slowed": "vehicle-4:0.5, vehicle-5 : 2"})
    assert config.survey.without == ("rsu-0", "vehicle-3")
    assert config.survey.slowed == (("vehicle-4", 0.5), ("vehicle-5", 2.0))
    assert config.fusion.vehicles == 2  # 4 and 5 of six; rsu-0 has the first three
    assert parse({}).survey.without == parse({}).survey.slowed == ()


def test_recorded_data_is_rebuilt_from_its_folder() -> None:
    config = parse({"task": "reconstruction", "data": "kitti", "data-path": "drive"})
    assert config.survey.path == Path("drive")


def test_all_bad_fields_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        parse({"vehicles": 0, "rsu-rounds": 0, "colour": "red"})
    assert len(str(raised.value).splitlines()) == 3


def test_whole_numbers_are_welcome_where_floats_are_meant() -> None:
    assert parse({"deadline-s": 30}).deadline_s == 30.0


def test_a_flat_run_is_one_group_and_one_round_per_cloud_round() -> None:
    config = parse({"hierarchy": "flat", "rsus": 3, "rsu-rounds": 5, "cloud-rounds": 4})
    assert (config.hierarchical.rsus, config.hierarchical.rsu_rounds, config.num_rounds) == (1, 1, 4)
    assert parse({"rsu-rounds": 5, "cloud-rounds": 4}).num_rounds == 20


def test_fedprox_is_fedavg_on_the_server() -> None:
    assert parse({"strategy": "fedprox"}).hierarchical.server.name == "fedavg"
    assert parse({"strategy": "fedadam"}).hierarchical.server.name == "fedadam"


def test_a_simulated_deadline_is_not_on_the_clock_of_this_machine() -> None:
    simulated = parse({"profile": "stragglers", "deadline-s": 8.0})
    assert (simulated.hierarchical.participation.deadline_s, simulated.reply_timeout_s) == (8.0, 600.0)
    assert parse({"profile": "uniform", "deadline-s": 8.0, "wall-timeout-s": 90.0}).reply_timeout_s == 90.0
    assert parse({"profile": "", "deadline-s": 8.0}).reply_timeout_s == 8.0


@pytest.mark.parametrize(("strategy", "rate"), [("fedavg", 1.0), ("fedprox", 1.0), ("fedavgm", 1.0), ("fedadam", 0.03)])
def test_each_strategy_has_a_server_rate_of_its_own_which_the_user_overrides(strategy: str, rate: float) -> None:
    assert parse({"strategy": strategy}).hierarchical.server.learning_rate == rate
    assert parse({"strategy": strategy, "server-learning-rate": 0.5}).hierarchical.server.learning_rate == 0.5


def test_the_server_optimizers_settings_reach_it() -> None:
    server = parse({"strategy": "fedadam", "server-beta-2": 0.9, "server-tau": 0.01}).hierarchical.server
    assert (server.name, server.beta_2, server.tau) == ("fedadam", 0.9, 0.01)


def test_rules_that_cannot_keep_their_promise_are_refused_by_key() -> None:
    with pytest.raises(ConfigError, match="cloud-rule = 'median' takes 3 updates"):
        parse({"cloud-rule": "median"})


@pytest.mark.parametrize(
    "values",
    [
        {"wall-timeout-s": 1e10},
        {"seed": 10**20},
        {"learning-rate": 10**400},
        {"max-norm-growth": 0.5},
        {"max-weight-ratio": 0.5},
    ],
)
def test_numbers_that_no_clock_or_generator_bears_are_one_line(values: dict) -> None:
    with pytest.raises(ConfigError, match=r"^run config: .*$"):
        parse(values)
