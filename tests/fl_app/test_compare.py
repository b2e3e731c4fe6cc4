"""Runs side by side: all that differs, nothing cut, names as they are, each round once."""

import warnings
from pathlib import Path

import pytest
from rich.console import Console

from fl_app import compare
from fl_app.compare import compare_runs, differing_settings, figures_table, label_runs, settings_table
from fl_app.plain_figures import pyplot
from fl_app.tracked_runs import TrackedRun, tracked_runs
from fl_app.tracking import Tracker, default_uri

pytestmark = pytest.mark.filterwarnings("ignore")  # mlflow's and sqlalchemy's own deprecations


def run(name: str, params: dict[str, str], run_id: str = "id", **metrics: list[tuple[int, float]]) -> TrackedRun:
    return TrackedRun(
        name, run_id, "FINISHED", params, {key.replace("__", "/"): value for key, value in metrics.items()}
    )


def printed(table: object, width: int = 60) -> str:
    console = Console(width=width, record=True)
    console.print(table)
    return console.export_text()


SETTINGS = {"hierarchy": "flat", "rsu-rule": "krum", "learning-rate": "0.01", "seed": "4", "slowed": "v:0.5," * 30}


def test_every_setting_that_differs_is_shown_with_its_whole_value() -> None:
    plain = dict.fromkeys(SETTINGS, "x") | {"vehicles": "6"}
    runs = label_runs([run("a", plain, "1"), run("b", {**plain, **SETTINGS}, "2"), run("old", {"vehicles": "6"}, "3")])
    assert differing_settings(list(runs.values())) == sorted(SETTINGS)
    text = printed(settings_table(runs))
    together = "".join(line.split("│")[-2].strip() for line in text.splitlines() if line.count("│") > 2)
    assert SETTINGS["slowed"] in together
    for key, value in SETTINGS.items():
        assert key in text
        assert value in text or value in together
    assert "vehicles" not in text


def test_many_runs_of_which_one_differs_take_two_lines() -> None:
    many = [run(f"run-{k}", {"seed": "7" if k == 3 else "0", "run-name": f"run-{k}"}, str(k)) for k in range(12)]
    lines = [line for line in printed(settings_table(label_runs(many))).splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    assert cells == [["seed", "all 11 others", "0"], ["", "run-3", "7"]]


def test_a_value_that_differs_at_its_far_end_is_told_apart_in_the_store(tmp_path: Path) -> None:
    for name, end in (("a", "1"), ("b", "2")):
        tracker = Tracker(default_uri(tmp_path), "test", tmp_path / "artifacts")
        tracker.begin(name, {"slowed": "v:0.5," * 2000 + end, "without": "v," * 1000 + end})
        tracker.finish("FINISHED")
    assert differing_settings(tracked_runs(default_uri(tmp_path), "test", [], [])) == ["slowed", "without"]


def test_a_reconstruction_has_its_psnr_and_perception_its_own() -> None:
    street = run("street", {}, "1", **{"vehicles/psnr-db": [(1, 20.0), (2, 23.456)]})
    seen = run("seen", {}, "2", **{"cloud/ap50": [(1, 0.25)], "cloud/miou": [(1, 0.5)]})
    text = printed(figures_table(label_runs([street, seen])), width=140)
    assert "PSNR, dB" in text
    assert "23.46" in text
    assert "0.250" in text
    assert "AP50" not in printed(figures_table(label_runs([street])))


NAMES = ["_hidden", "$x$", "[bold]b[/bold]", "[/x]", "a$b_{c", "\x1b[2Jclear"]


def test_names_are_data_in_tables_and_legends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = label_runs([run(name, {"seed": name}, str(k), **{"cloud/ap50": [(1, 0.1)]}) for k, name in enumerate(NAMES)])
    shown = [name.replace("\x1b", "\\x1b") for name in NAMES]
    for table in (figures_table(runs), settings_table(runs)):
        assert all(name in printed(table, 200) for name in shown)
    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    compare.draw(runs, tmp_path / "out.png")
    monkeypatch.undo()
    texts = figures[0].axes[0].get_legend().get_texts()
    assert [text.get_text() for text in texts] == shown
    assert not any(text.get_parse_math() for text in texts)
    pyplot.close(figures[0])


def test_runs_of_one_name_are_told_apart() -> None:
    assert list(label_runs([run("a", {}, "0123456789"), run("a", {}, "9876543210"), run("b", {}, "1")])) == [
        "a (01234567)",
        "a (98765432)",
        "b",
    ]


def test_a_round_that_was_done_again_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rounds 1 and 2, broken off; 2 again and 3: lost replies are 1 + 5 + 1 = 7."""
    uri = default_uri(tmp_path)
    first = Tracker(uri, "test", tmp_path / "artifacts")
    first.begin("run", {"cloud-rounds": 2})
    for step, lost in ((1, 1), (2, 4)):
        first.metrics(step, {"replies/lost": lost, "cloud/ap50": 0.1 * step})
    first.finish("KILLED")
    again = Tracker(uri, "test", tmp_path / "artifacts")
    assert again.begin("run", {"cloud-rounds": 3}, first.run_id)
    for step, lost in ((2, 5), (3, 1)):
        again.metrics(step, {"replies/lost": lost, "cloud/ap50": 0.2 * step})
    again.finish("FINISHED")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (tracked,) = tracked_runs(uri, "test", [], ["replies/lost", "cloud/ap50"])
        compare_runs(uri, "test", [], tmp_path / "out.png")
    assert tracked.metrics["replies/lost"] == [(1, 1.0), (2, 5.0), (3, 1.0)]
    assert tracked.metrics["cloud/ap50"] == [(1, 0.1), (2, 0.4), (3, pytest.approx(0.6))]
    assert tracked.params["cloud-rounds"] == "3", "as it was run last"
    assert "│    7 │" in capsys.readouterr().out
