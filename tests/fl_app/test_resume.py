"""What a resumed run may change of its settings: an explicit list, and nothing else."""

import re
from pathlib import Path

import pytest

from fl_app.resume import MAY_CHANGE, check_unchanged
from fl_app.run_config import parse
from perception.datasets.base import DataError

OTHERS = {
    "task": "reconstruction",
    "data": "camvid",
    "preset": "street",
    "frames-per-vehicle": 3,
    "image-height": 64,
    "image-width": 64,
    "vehicles": 7,
    "rsus": 3,
    "hierarchy": "flat",
    "rsu-rounds": 3,
    "init": "weights.safetensors",
    "pretrain-epochs": 2,
    "strategy": "fedadam",
    "proximal-mu": 0.5,
    "server-learning-rate": 0.5,
    "server-momentum": 0.5,
    "profile": "mixed",
    "seed": 3,
}
FREE = {
    "cloud-rounds": 99,
    "deadline-s": 1.0,
    "output-dir": "elsewhere",
    "run-name": "other",
    "resume": "runs/x",
    "experiment": "other",
    "tracking-uri": "sqlite:///other.db",
    "quorum": 0.1,
    "learning-rate": 0.5,
    "rsu-rule": "median",
    "evaluate-every": 3,
}


@pytest.mark.parametrize(("key", "value"), OTHERS.items())
def test_what_a_saved_state_is_of_stays(key: str, value: object) -> None:
    before = parse({}).as_flower()
    with pytest.raises(DataError, match=re.escape(f"\n  {key} = {value!r}, there {before[key]!r}\n")):
        check_unchanged("resume", "runs/x", before, parse({key: value}))


def test_each_setting_that_differs_has_a_line_of_its_own() -> None:
    with pytest.raises(DataError) as raised:
        check_unchanged("resume", "runs/x", parse({}).as_flower(), parse({"seed": 1, "vehicles": 9, "data": "camvid"}))
    assert str(raised.value).splitlines()[:4] == [
        "resume: runs/x was run with other settings:",
        "  data = 'camvid', there 'town'",
        "  vehicles = 9, there 6",
        "  seed = 1, there 0",
    ]


@pytest.mark.parametrize(("key", "value"), FREE.items())
def test_what_decides_over_later_rounds_alone_may_change(key: str, value: object) -> None:
    assert key in MAY_CHANGE
    check_unchanged("resume", "runs/x", parse({}).as_flower(), parse({key: value}))


def test_data_that_lies_at_the_same_place_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = parse({"data": "kitti", "data-path": "kitti"}).as_flower()
    check_unchanged("resume", "x", before, parse({"data": "kitti", "data-path": str(tmp_path / "kitti")}))
    check_unchanged("resume", "x", parse({}).as_flower(), parse({"data-path": "the town needs none"}))
    for path in ("other", ""):
        with pytest.raises(DataError, match="data-path = "):
            check_unchanged("resume", "x", before, parse({"data": "kitti", "data-path": path}))


@pytest.mark.parametrize("there", ["0", None, False, 0.0])
def test_a_setting_of_another_type_is_another_setting(there: object) -> None:
    with pytest.raises(DataError, match=f"seed = 0, there {there!r}"):
        check_unchanged("resume", "x", {**parse({}).as_flower(), "seed": there}, parse({}))
