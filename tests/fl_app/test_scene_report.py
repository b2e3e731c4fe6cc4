"""The page of a reconstruction, on a drive of grey photos that two roadside units share."""

import json
import math
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fl_app.console import megabytes
from fl_app.history import History
from fl_app.run_config import RunConfig, parse
from fl_app.scene_config import SceneFields
from fl_app.scene_judged import Border, Judged, borders_between, in_colours, judged_images, picture_of, seam_images
from fl_app.scene_leakage import VehicleLeakage, by_treatment, leakage_row, leakages
from fl_app.scene_page import Picture, Section, Table, page
from fl_app.scene_pictures import draw_from_above, draw_placing, rsu_colours
from fl_app.scene_report import write_report
from fl_app.scene_tables import figures, replanned_line
from fl_app.survey import Survey, SurveyRequest, make_survey
from recon.compressed import compress_gaussians
from recon.gaussians import Gaussians
from recon.leakage import Exposed, Leakage
from recon.partition import Problem
from strategies.gaussian_state import FusionState
from strategies.report import Traffic

pytestmark = pytest.mark.usefixtures("one_thread")

SECTIONS = (
    "Figures",
    "Map",
    "Alignment",
    "Seams",
    "Along the way",
    "Held-out views",
    "Rounds",
    "What was dropped",
    "What uploads give away",
    "Settings",
)
GREY = 51  # of all photos: a fifth of white
FRAMES, HOLDOUT = 24, 4


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos one metre apart on the way to the north, which is where they look."""
    root = tmp_path_factory.mktemp("data") / "drive"
    root.mkdir()
    rows = []
    for number in range(FRAMES):
        Image.fromarray(np.full((24, 32, 3), GREY, np.uint8)).save(root / f"{number:02}.png")
        pose = [[1, 0, 0, 0], [0, 0, -1, number], [0, 1, 0, 0], [0, 0, 0, 1]]  # OpenGL's axes
        rows.append({"file_path": f"{number:02}.png", "transform_matrix": pose})
    (root / "transforms.json").write_text(
        json.dumps({"fl_x": 20, "fl_y": 20, "cx": 16, "cy": 12, "w": 32, "h": 24, "frames": rows})
    )
    return root


def request_of(drive: Path, **more: Any) -> SurveyRequest:
    base = SurveyRequest(path=drive, apart_m=0.0, holdout=HOLDOUT, rsus=2, vehicles=4, overlap_m=1.0, speed_ratio=1.0)
    return replace(base, **more)


@pytest.fixture(scope="module")
def survey(drive: Path) -> Survey:
    return make_survey(request_of(drive))


def balls(north_m: list[float], rgb: tuple[float, float, float], up_m: float = 0.0) -> Gaussians:
    """Opaque ones of half a metre, 1 m beside the way."""
    places = np.array([[side, north, up_m] for north in north_m for side in (-1.0, 1.0)])
    made = Gaussians.from_points(places, np.full((len(places), 3), rgb, np.float64), opacity=0.99)
    return replace(made, log_scales=torch.full((len(places), 3), math.log(0.5)))


def state_of(survey: Survey) -> FusionState:
    """All four vehicles have sent something, and were put exactly where they were."""
    return FusionState(
        round=3,
        parts={vehicle.vehicle: balls([5.0, 15.0], (0.2, 0.2, 0.2)) for vehicle in survey.vehicles},
        world_from={vehicle.vehicle: vehicle.own_from_data.inverse() for vehicle in survey.vehicles},
        scene={"rsu-0": balls([2.0, 6.0, 10.0], (1, 0, 0)), "rsu-1": balls([14.0, 20.0, 26.0], (0, 0, 1))},
        traffic=Traffic(1_500_000, 2_500_000, 300_000, 400_000),
        losses={"vehicle-3": {"late": 2}},
        accepted=7,
    )


def history_of() -> History:
    history = History()
    history.add(1, {"time/wall-s": 2.0, "bytes/vehicle-up": 1e6})
    merged = {"vehicles/psnr-db": 10.0, "align/seed-m": 0.6, "align/error-m": 0.125, "align/links": 6.0}
    history.add(2, {**merged, "time/wall-s": 3.0, "dropped/unseen": 11.0, "dropped/fog": 0.0})
    history.add(3, {"vehicles/psnr-db": 20.0, "vehicles/border-psnr-db": 19.0, "rsu/rsu-0/psnr-db": 21.5})
    return history


def config_of(drive: Path) -> RunConfig:
    return parse({"task": "reconstruction", "data-path": str(drive), "vehicles": 4, "rsus": 2})


class Reader(HTMLParser):
    """Text, sources and links of a page whose tags must fit together."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def written(drive: Path, survey: Survey, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("run")
    return write_report(folder, survey, state_of(survey), history_of(), config_of(drive))


def test_every_section_is_there(written: list[Path]) -> None:
    texts = Reader(written[0].read_text()).texts
    assert [text for text in texts if text in SECTIONS] == [*SECTIONS, *SECTIONS]  # links at the top, then headings


def test_the_page_needs_nothing_else(written: list[Path]) -> None:
    reader = Reader(written[0].read_text())
    assert written[0].name == "report.html"
    assert "http" not in written[0].read_text()
    assert not {"script", "link", "iframe"} & set(reader.tags)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in reader.addresses)
    assert 'name="viewport"' in written[0].read_text()


def test_pictures_lie_beside_the_page_and_are_in_it(written: list[Path]) -> None:
    pictures = [path for path in written if path.suffix == ".png"]
    assert {path.name for path in pictures} >= {"map.png", "partition.png", "above.png", "placing.png", "way.png"}
    assert {path.name for path in pictures} >= {"curves.png", "seam-0.png", "view-0.png"}
    assert Reader(written[0].read_text()).tags.count("img") == len(pictures) == len(written) - 1
    for path in pictures:
        with Image.open(path) as image:
            assert image.size[0] > 60


def test_figures_are_those_of_state_and_history(written: list[Path]) -> None:
    texts = Reader(written[0].read_text()).texts
    after = {name: texts[texts.index(name) + 1] for name in texts if name}
    assert after["PSNR of held-out images"] == "20.00 dB (after the merge: 10.00 dB)"
    assert after["PSNR near borders of stretches"] == "19.00 dB"
    assert after["cameras misplaced as positioned"] == "0.600 m"
    assert after["cameras misplaced after alignment"] == "0.125 m"
    assert after["RSU to vehicle"] == "2.5 MB"
    assert after["answers that counted, and that did not"] == "7, 2"
    assert after["wall time of all rounds"] == "5 s"
    assert after["scene"].startswith("12 Gaussians")
    assert after["unseen"] == "11"
    assert (after["late"], after["margin-m"]) == ("2", "1000.0")
    assert "SSIM" not in after  # not measured


@pytest.mark.parametrize("missing", ["nothing yet", "no history", "one region", "a vehicle", "uploads"])
def test_a_page_is_written_whatever_is_missing(drive: Path, survey: Survey, tmp_path: Path, missing: str) -> None:
    state, history = state_of(survey), history_of()
    if missing == "nothing yet":
        state, history = FusionState(), History()
    elif missing == "no history":
        history = History()
    elif missing == "one region":
        del state.scene["rsu-1"]
    elif missing == "a vehicle":
        del state.world_from["vehicle-2"]
    else:
        state.parts = {}
    paths = write_report(tmp_path, survey, state, history, config_of(drive))
    texts = Reader(paths[0].read_text()).texts
    assert set(SECTIONS) <= set(texts)
    assert any(path.name.startswith("seam") for path in paths) == (missing in ("no history", "a vehicle", "uploads"))
    if missing == "a vehicle":
        assert any(text == "Not aligned, for want of an upload: vehicle-2." for text in texts)


def test_who_is_tied_to_no_known_place_is_named(drive: Path, survey: Survey, tmp_path: Path) -> None:
    history = history_of()
    history.add(2, {"vehicle/vehicle-3/unplaced": 1.0})
    texts = Reader(write_report(tmp_path, survey, state_of(survey), history, config_of(drive))[0].read_text()).texts
    assert "Pair by pair nothing tied these to a place that is known: vehicle-3." in texts


def test_sizes_are_those_that_were_sent_and_those_that_are_held(survey: Survey) -> None:
    state = state_of(survey)
    table = figures(survey, state, history_of(), survey.plan).tables[1]
    sent = 2 * len(compress_gaussians(state.parts["vehicle-0"]))
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["compressed"] == megabytes(sent)
    assert row["in memory"] == megabytes(state.scene["rsu-0"].nbytes)
    assert sent < 2 * state.parts["vehicle-0"].nbytes


def test_a_plan_that_was_made_again_is_told_of(drive: Path, survey: Survey, tmp_path: Path) -> None:
    gone = ("vehicle-0", "vehicle-1")
    again = make_survey(request_of(drive, without=gone, slowed=(("vehicle-3", 0.5),)))
    base = config_of(drive)
    config = base.model_copy(update={"without": "vehicle-0", "slowed": "vehicle-3:0.5"})
    state = state_of(again)
    state.missing, state.scene = ["vehicle-1"], {"rsu-1": state.scene["rsu-1"]}
    texts = Reader(write_report(tmp_path, again, state, history_of(), config)[0].read_text()).texts
    said = "Planned again because of vehicle-0, vehicle-1, vehicle-3 (speed x 0.5): "
    (line,) = (text for text in texts if text.startswith(said))
    before, after = ([s.plan.stretches[row].vehicle for row in s.owner] for s in (survey, again))
    moved = sum(old != new for old, new in zip(before, after, strict=True))
    assert line.startswith(f"{said}{moved} of 24 frames change hands, the last vehicle is done at 1.0")
    assert replanned_line(survey, base, []) == ""


def test_a_region_that_is_added_to_a_scene_whose_vehicles_are_gone(drive: Path, tmp_path: Path) -> None:
    added = make_survey(request_of(drive, rsu_names=("rsu-1",)))
    state = state_of(added)
    state.base = {"rsu-0": state.scene["rsu-0"]}
    paths = write_report(tmp_path, added, state, history_of(), config_of(drive), leaks=[])
    texts = Reader(paths[0].read_text()).texts
    assert "rsu-0 (from before)" in texts
    assert "vehicle-2" in texts
    assert "vehicle-0" not in texts
    assert "No upload to measure." in texts
    assert tmp_path / "seam-0.png" in paths  # as one of the new region sees it


def test_where_nothing_is_the_score_is_that_of_black(survey: Survey) -> None:
    state = state_of(survey)
    state.scene = {"rsu-0": balls([-50.0], (1, 1, 1))}  # behind all cameras
    judged = judged_images(survey, state)
    assert [image.along_m for image in judged] == [2, 6, 10, 14, 18, 22]  # every fourth, from its half on
    for image in judged:
        assert image.psnr_db == pytest.approx(-20 * math.log10(GREY / 255))
        assert image.render.max() == 0
        assert np.isinf(image.depth_m).all()
    assert len(judged_images(survey, state, most=2)) == 2


def test_a_misplaced_vehicle_sees_the_scene_where_alignment_puts_it(survey: Survey) -> None:
    """What a vehicle's own world is off by cancels."""
    state = state_of(survey)
    judged = judged_images(survey, state)
    for image in judged:
        centre_m = -image.view.viewmat[:3, :3].T @ image.view.viewmat[:3, 3]
        assert centre_m.tolist() == pytest.approx([0, image.along_m, 0], abs=1e-4)


def test_one_border_half_way_and_its_seam(survey: Survey) -> None:
    (border,) = borders_between(survey)
    last = int(np.flatnonzero(survey.owner < 2).max())  # of the first RSU's two vehicles
    assert border.rsus == ("rsu-0", "rsu-1")
    assert border.along_m == last + 0.5
    assert border.place_m == (0, last + 0.5)
    judged = judged_images(survey, state_of(survey))
    ((_, seam),) = seam_images([border], judged)
    assert seam.along_m == max(place for place in (2, 6, 10, 14, 18, 22) if place <= last)  # the last that faces it


def test_a_seam_is_seen_from_before_it_if_it_can_be(survey: Survey) -> None:
    judged = judged_images(survey, state_of(survey))
    place = lambda north_m: Border(("rsu-0", "rsu-1"), north_m, (0.0, north_m))  # noqa: E731
    seams = seam_images([place(13.0), place(-5.0)], judged)
    assert [image.along_m for _, image in seams] == [10, 2]  # not 14, which has passed it; all have passed the other
    assert seam_images([Border(("rsu-7", "rsu-8"), 0.0, (0.0, 0.0))], judged) == []


def test_a_way_that_ends_where_it_starts_has_a_border_there(survey: Survey) -> None:
    angles = 2 * np.pi * np.arange(FRAMES) / FRAMES
    problem = Problem.of(10 * np.stack([np.cos(angles), np.sin(angles)], axis=1), survey.problem.workers)
    half = np.arange(FRAMES) // (FRAMES // 2)
    ring = replace(survey, problem=problem, owner=3 * half)
    assert [border.rsus for border in borders_between(ring)] == [("rsu-0", "rsu-1")] * 2


def test_whose_gaussians_an_image_is_made_of(survey: Survey) -> None:
    state = state_of(survey)
    colours = rsu_colours(["rsu-0", "rsu-1"])
    image = next(image for image in judged_images(survey, state) if image.along_m == 22)
    painted = picture_of(in_colours(state.scene, colours), image.view)[0]
    brightest = painted.reshape(-1, 3)[painted.reshape(-1, 3).sum(axis=1).argmax()]
    wanted = 255 * np.array(colours["rsu-1"])  # the other's are all behind
    assert np.abs(brightest / brightest.max() - wanted / wanted.max()).max() < 0.02


def test_colours_do_not_depend_on_order_and_differ() -> None:
    names = [f"rsu-{number:02}" for number in range(13)]
    assert rsu_colours(names) == rsu_colours(names[::-1])
    assert len(set(rsu_colours(names).values())) == 13
    assert len(set(rsu_colours(names[:3]).values())) == 3


def test_nobody_placed_makes_no_picture(survey: Survey, tmp_path: Path) -> None:
    colours = rsu_colours(survey.plan.rsus)
    assert draw_placing(tmp_path / "placing.png", survey, FusionState(), colours) is None
    far = FusionState(scene={"rsu-0": balls([9000.0], (1, 1, 1))})  # none on the map
    assert draw_from_above(tmp_path / "above.png", survey, far, colours).exists()


def leak(whole: float, trimmed: float, hidden: float | None) -> VehicleLeakage:
    shown = Leakage(Exposed(10, whole, None, 0.5), Exposed(4, trimmed, hidden, 0.25), 5.0)
    return VehicleLeakage("v", {5.0: shown})


def test_leakage_by_name_is_the_mean_over_vehicles_that_know_it() -> None:
    row = leakage_row([leak(20, 10, 8), leak(30, 16, None)])
    assert row["leakage/as-sent/psnr-db"] == 25
    assert row["leakage/margin-5/psnr-db"] == 13
    assert row["leakage/margin-5/transient-psnr-db"] == 8
    assert row["leakage/margin-5/outside-share"] == 0.25
    assert row["leakage/as-sent/gaussians"] == 10
    assert "leakage/as-sent/transient-psnr-db" not in row
    assert leakage_row([]) == {}


def test_treatments_come_from_most_to_least(survey: Survey) -> None:
    found = leakages(survey, state_of(survey), margins_m=(0.0, 20.0, 5.0), vehicles=1, views=1)
    assert list(by_treatment(found)) == ["as-sent", "margin-20", "margin-5", "margin-0"]
    assert by_treatment([]) == {}


def test_leakage_of_uploads_that_there_are(survey: Survey) -> None:
    state = state_of(survey)
    del state.parts["vehicle-1"]
    found = leakages(survey, state, margins_m=(0.0, 1000.0), vehicles=9, views=2)
    assert [one.vehicle for one in found] == ["vehicle-0", "vehicle-2", "vehicle-3"]
    for one in found:
        everything, strict = one.by_margin[1000.0], one.by_margin[0.0]
        assert everything.whole == everything.trimmed == strict.whole
        nearest = [f"vehicle-{survey.owner[north_m]}" for north_m in (5, 5, 15, 15)]  # to each of what was sent
        assert strict.trimmed.gaussians == nearest.count(one.vehicle)
        assert strict.whole.gaussians == 4
        assert strict.trimmed.outside_share == 0
    assert len(leakages(survey, state, margins_m=(0.0,), vehicles=1, views=1)) == 1
    assert leakages(survey, FusionState()) == []


def test_what_a_page_is_given_is_text_and_no_markup(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "dot.png")
    table = Table("a & b", ("<x>", "y"), (("1 < 2", '"q"'),))
    section = Section("A <b> part", ("<script>",), (table,), (Picture(tmp_path / "dot.png", '"> a'),), small=True)
    reader = Reader(page("<i>", "&amp;", [section]))
    assert {"<i>", "&amp;", "A <b> part", "<script>", "a & b", "<x>", "1 < 2", '"q"', '"> a'} <= set(reader.texts)
    assert "script" not in reader.tags
    assert reader.addresses[0] == f"#{section.anchor}"
    assert reader.addresses[1].startswith("data:image/png")


def test_a_judged_image_tells_what_counts(survey: Survey) -> None:
    image = judged_images(survey, state_of(survey))[0]
    assert image.counted.all()
    masked = torch.zeros(24, 32, dtype=torch.bool)
    assert not replace(image, view=replace(image.view, counted=masked)).counted.any()
    assert isinstance(image, Judged)
    assert (image.photo == GREY).all()


def test_the_documentation_has_every_setting_with_its_default() -> None:
    root = Path(__file__).parents[2]
    config = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    text = (root / "docs" / "reconstruction.md").read_text()
    for field in [*SceneFields.model_fields, "fraction", "quorum", "deadline_s", "seed", "data_path"]:
        name = field.replace("_", "-")
        assert f"| `{name}` | `{json.dumps(config[name])}` |" in text


def test_the_documentation_has_every_section_and_a_small_picture() -> None:
    docs = Path(__file__).parents[2] / "docs"
    text = (docs / "reconstruction.md").read_text()
    assert all(f"| {section} |" in text for section in SECTIONS)
    assert (docs / "pictures" / "reconstruction.png").stat().st_size < 300_000
