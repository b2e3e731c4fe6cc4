"""The command line of `flower-simulation`, short of starting an engine."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fl_app.simulation as simulation
from fl_app.command_settings import UsageError, app_settings, parse_pairs


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("vehicles=4 rsus=2", {"vehicles": 4, "rsus": 2}),
        ('data="camvid"', {"data": "camvid"}),
        ("data='camvid'  deadline-s = 2.5", {"data": "camvid", "deadline-s": 2.5}),
        ('run-name="two words" x=true', {"run-name": "two words", "x": True}),
        ("a.b=1", {"a.b": 1}),
        ("vehicles=4 rsus=2 vehicles=5", {"vehicles": 5, "rsus": 2}),
        ("", {}),
    ],
)
def test_pairs_are_read_as_flower_reads_them(text: str, values: dict) -> None:
    assert parse_pairs(text) == values


@pytest.mark.parametrize("text", ["data=town", "vehicles", "vehicles=4 and more", "= 3"])
def test_what_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--run-config"):
        parse_pairs(text)


def test_a_toml_file_may_stand_for_the_pairs(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('vehicles = 4\n[robust]\nrule = "krum"\n')
    assert parse_pairs(str(path)) == {"vehicles": 4, "robust.rule": "krum"}


def test_a_folder_without_an_app_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no Flower app there"):
        app_settings(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(UsageError, match="serverapp and clientapp"):
        app_settings(tmp_path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Calls of `simulate`, which is not carried out."""
    calls: list[tuple] = []
    monkeypatch.setattr(simulation, "simulate", lambda *args: calls.append(args))
    return calls


def _call(*flags: str):
    import typer

    cli = typer.Typer()
    cli.command()(simulation.command)
    return CliRunner().invoke(cli, list(flags))


def test_upstreams_flags_are_kept(started: list[tuple]) -> None:
    flags = ("--app", ".", "--num-supernodes", "3", "--run-config", "rsus=1", "--backend", "ray")
    assert _call(*flags, "--backend-config", '{"init_args": {"num_cpus": 2}}', "--verbose").exit_code == 0
    _, config, vehicles, engine, backend, verbose = started[0]
    assert (config["rsus"], config["vehicles"], vehicles, str(engine)) == (1, 3, 3, "ray")
    assert backend == {"init_args": {"num_cpus": 2}}
    assert verbose


def test_a_ray_address_implies_the_engine(started: list[tuple]) -> None:
    assert _call("--ray-address", "auto").exit_code == 0
    assert str(started[0][3]) == "ray"
    assert started[0][4] == {"init_args": {"address": "auto"}}


def test_data_brings_its_defaults_and_the_user_wins(started: list[tuple]) -> None:
    assert _call("--data", "camvid", "--run-config", "local-epochs=9").exit_code == 0
    _, config, vehicles, *_ = started[0]
    assert (config["data"], config["local-epochs"], vehicles) == ("camvid", 9, 3)


def test_a_reconstruction_of_recorded_data_keeps_its_vehicles(started: list[tuple]) -> None:
    assert _call("--task", "reconstruction", "--data", "kitti").exit_code == 0
    _, config, vehicles, *_ = started[0]
    assert (config["data"], config["vehicles"], vehicles) == ("kitti", 12, 12)
    assert "learning-rate" not in config


@pytest.mark.parametrize(
    ("settings", "nodes"),
    [
        ("", 12),
        ('without="vehicle-03"', 11),
        ('without="rsu-1,vehicle-00"', 8),
        ('regions="rsu-1"', 3),
        ('slowed="vehicle-03:0.5"', 12),
    ],
)
def test_there_is_a_node_for_each_vehicle_that_takes_part(started: list[tuple], settings: str, nodes: int) -> None:
    for more in ((), ("--num-supernodes", "12")):
        assert _call("--task", "reconstruction", "--run-config", settings, *more).exit_code == 0
        assert started.pop()[2] == nodes


def test_a_region_is_added_to_a_reconstruction_alone(started: list[tuple], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    flags = ("--resume", str(tmp_path), "--add-region", "rsu-1")
    path.write_text(json.dumps({"task": "perception", "vehicles": 4, "rsus": 2}))
    refused = _call(*flags).exception
    assert isinstance(refused, UsageError)
    assert f"{tmp_path} is no reconstruction" in str(refused)
    assert not started
    path.write_text(json.dumps({"task": "reconstruction", "vehicles": 4, "rsus": 2, "regions": "rsu-0"}))
    assert _call(*flags).exit_code == 0
    _, config, vehicles, *_ = started[0]
    assert (config["add-to"], config["regions"], config["resume"], vehicles) == (str(tmp_path), "rsu-1", "", 2)
    assert config["run-name"] == ""
    assert _call(*flags, "--run-config", 'run-name="both"').exit_code == 0
    assert started[1][1]["run-name"] == "both"


def test_nobody_asks_for_another_task_or_data_to_go_on_with(started: list[tuple], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"task": "perception", "data": "kitti", "vehicles": 4}))
    resume = ("--resume", str(tmp_path))
    for flags, text in (
        (("--task", "reconstruction"), f"--task reconstruction: {tmp_path} was run with perception; leave it out"),
        (("--data", "camvid"), f"--data camvid: {tmp_path} was run with kitti; leave it out"),
    ):
        assert text in str(_call(*resume, *flags).exception)
    assert not started
    assert _call(*resume, "--task", "perception", "--data", "kitti").exit_code == 0


@pytest.mark.parametrize("flags", [("--data", "x"), ("--backend", "x"), ("--backend-config", "[1]"), ("--resume", "x")])
def test_bad_flags_are_usage_errors(started: list[tuple], flags: tuple[str, ...]) -> None:
    assert isinstance(_call(*flags).exception, UsageError)
    assert not started


@pytest.mark.parametrize("workers", ["0", "-1", "true", "1.5", "NaN", "Infinity", "null", '"2"', "[2]", "100000"])
def test_a_number_of_workers_that_is_none_is_a_usage_error(started: list[tuple], workers: str) -> None:
    refused = _call("--backend-config", f'{{"workers": {workers}}}').exception
    assert isinstance(refused, UsageError)
    assert "workers = " in str(refused)
    assert "must be a whole number from 1 to 1024" in str(refused)
    assert not started
    assert _call("--backend-config", '{"workers": 3}').exit_code == 0


@pytest.mark.parametrize(
    "settings",
    [
        '{"client_resources": 5}',
        '{"init_args": []}',
        '{"client_resources": {"num_cpus": -1}}',
        '{"client_resources": {"num_gpus": "1"}}',
        '{"init_args": {"num_cpus": NaN}}',
        '{"init_args": {"num_cpus": true}}',
        "[" * 100_000,
    ],
)
def test_settings_of_ray_that_are_none_are_usage_errors(started: list[tuple], settings: str) -> None:
    for more in (("--engine", "ray"), ("--ray-address", "auto")):
        assert isinstance(_call(*more, "--backend-config", settings).exception, UsageError)
    assert not started


@pytest.mark.parametrize("text", ["[1]", "3", "null", '"x"', "{", "", "\udc80", "[" * 100_000])
def test_a_config_file_that_is_none_is_one_clear_error(started: list[tuple], tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, errors="surrogateescape")
    refused = _call("--resume", str(tmp_path)).exception
    assert isinstance(refused, UsageError)
    assert f"{tmp_path / 'config.json'} is damaged" in str(refused)
    assert "start the run afresh" in str(refused)
    assert not started
