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
        ({"data": "imagenet"}, "'town', 'camvid' or 'kitti'"),
        ({"rsu-rule": "average"}, "rsu-rule = 'average'"),
        ({"image-width": 100}, "multiple of 32"),
        ({"quorum": 1.5}, "quorum = 1.5"),
        ({"learning-rate": 0.0}, "learning-rate = 0.0"),
        ({"profile": "fast"}, "profile = 'fast'"),
    ],
)
def test_bad_values_are_named(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^run config: ") as raised:
        parse(values)
    assert said in str(raised.value)


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
