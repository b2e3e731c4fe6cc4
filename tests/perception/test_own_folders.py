"""Folders that differ from vehicle to vehicle, frames that a server holds itself, and names of vehicles."""

import os
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geometry import Frame
from perception.datasets import DataError, Fleet, FleetRequest, load_fleet, load_holdout, load_own_share, load_share
from perception.datasets.export import ExportOptions, export_frames
from perception.datasets.names import VEHICLE_NAME, vehicle_names
from perception.datasets.root_frames import select_root
from perception.datasets.sharing import GUARD_S, Concatenated
from tests.perception.test_argoverse2 import write_log
from tests.perception.test_bdd100k import entry, write_split
from tests.perception.test_camvid import write_camvid
from tests.perception.test_cityscapes import write_frame
from tests.perception.test_kitti import write_object_root
from tests.perception.test_nuscenes import small_tables, write_nuscenes
from tests.perception.test_waymo import small_segment, write_waymo

DATA = os.environ.get("CONVOY_DATA")


def camvid(root: Path) -> int:
    """Three sequences at 5 Hz, of 24, 32 and 40 frames."""
    lengths = {"0001TP": 24, "0006R0": 32, "0016E5": 40}
    write_camvid(root, [f"{name}_{6 * place}" for name, length in lengths.items() for place in range(length)])
    return 96


def kitti(root: Path) -> int:
    training = write_object_root(root) / "training"
    for folder, ending in (("image_2", "png"), ("calib", "txt"), ("label_2", "txt")):
        first = (training / folder / f"000007.{ending}").read_bytes()
        for number in range(8, 47):
            (training / folder / f"{number:06d}.{ending}").write_bytes(first)
    return 40


def cityscapes(root: Path) -> int:
    for city, sequence in product(("bonn", "ulm"), range(12)):
        write_frame(root, f"{city}_{sequence:06d}_000019")
    return 24


def cityscapes_with_validation(root: Path) -> int:
    for sequence in range(6):
        write_frame(root, f"lindau_{sequence:06d}_000019", split="val")
        write_frame(root, f"munster_{sequence:06d}_000019", split="val")
    return 12 + cityscapes(root)


def bdd100k(root: Path) -> int:
    times = ["daytime"] * 16 + ["night"] * 12 + ["dawn/dusk"] * 12
    write_split(root, [entry(f"{place:02d}", time=time) for place, time in enumerate(times)])
    return 40


def bdd100k_with_validation(root: Path) -> int:
    write_split(root, [entry(f"v{place:02d}") for place in range(16)], split="val")
    return 16 + bdd100k(root)


def nuscenes(root: Path) -> int:
    write_nuscenes(root, small_tables(scenes=3, samples=16))
    return 48


def argoverse2(root: Path) -> int:
    for name in ("one", "two"):
        write_log(root, sweeps=40, name=name)
    return 80


def waymo(root: Path) -> int:
    for segment in ("a", "b"):
        tables = small_segment(frames=40)
        for component in ("lidar", "lidar_pose", "lidar_calibration"):
            tables.pop(component)
        write_waymo(root, tables, segment)
    return 80


WRITERS = (
    camvid,
    kitti,
    cityscapes,
    cityscapes_with_validation,
    bdd100k,
    bdd100k_with_validation,
    nuscenes,
    argoverse2,
    waymo,
)


@pytest.fixture(params=WRITERS, ids=lambda writer: writer.__name__)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, int]:
    """A data set's name, a folder of it, and how many labelled frames that holds."""
    write: Callable[[Path], int] = request.param
    return write.__name__.removesuffix("_with_validation"), tmp_path, write(tmp_path)


SEQUENCE: dict[str, Callable[[str], str]] = {  # that a frame is of, by its source
    "camvid": lambda source: Path(source).stem.partition("_")[0],
    "kitti": lambda source: str(Path(source).parent),
    "cityscapes": lambda source: Path(source).name.rsplit("_", 2)[0],
    "bdd100k": lambda source: str(Path(source).parent),
    "nuscenes": lambda source: Path(source).stem.partition("n")[0],
    "argoverse2": lambda source: str(Path(source).parents[3]),
    "waymo": lambda source: source.partition(":")[0],
}


def sources(frames: Sequence[Frame]) -> list[str]:
    return [f"{frame.source}@{frame.timestamp_s}" for frame in frames]


def judged(fleet: Fleet) -> list[Frame]:
    return [*fleet.holdout, *(frame for share in fleet.shares for frame in share.test)]


def test_a_vehicle_holds_all_of_its_own_folder_whatever_others_hold(folder: tuple[str, Path, int]) -> None:
    name, path, count = folder
    share = load_own_share(name, path, "car-7")
    train, test = sources(share.train), sources(share.test)
    fleet = load_fleet(name, FleetRequest(path=path, vehicles=0))
    assert share.vehicle == "car-7"
    assert share.region in {other.region for other in fleet.shares}
    assert len({*train, *test}) == len(train) + len(test)
    assert abs(len(test) - count / 4) <= 1  # a quarter, whatever the number of vehicles
    assert len(train) + len(test) >= count * 3 / 4  # the rest is less than the guard from a test frame
    assert load_own_share(name, path, "car-7", "north", limit=8).region == "north"
    limited = load_own_share(name, path, "car-7", limit=8)
    assert len(limited.train) + len(limited.test) <= 8
    assert len(limited.test) in (2, 3, 4)  # a quarter of each sequence, at least one


def test_a_server_holds_out_all_of_its_own_folder_but_for_the_root(folder: tuple[str, Path, int]) -> None:
    name, path, count = folder
    fleet = load_holdout(name, path, FleetRequest(vehicles=5))
    assert (len(fleet.holdout), len(fleet.root), fleet.shares) == (count, 0, ())
    with_root = load_holdout(name, path, FleetRequest(vehicles=5, root_frames=6))
    assert len(with_root.root) == 6
    assert not {*sources(with_root.root)} & {*sources(with_root.holdout)}
    assert len(with_root.holdout) >= count / 2


def test_root_frames_are_apart_from_all_that_is_judged_and_trained_on(folder: tuple[str, Path, int]) -> None:
    name, path, _ = folder
    vehicles = 2 if name in ("argoverse2", "waymo") else 4  # of 40 frames at 10 Hz, 10 are tested on
    plain = load_fleet(name, FleetRequest(path=path, vehicles=vehicles))
    fleet = load_fleet(name, FleetRequest(path=path, vehicles=vehicles, root_frames=5))
    assert len(plain.root) == 0
    assert 2 <= len(fleet.root) <= 5
    root = sources(fleet.root)
    held_by_others = sources([*judged(fleet), *(frame for share in fleet.shares for frame in share.train)])
    assert not {*root} & {*held_by_others}
    assert {*root} <= {*sources(plain.holdout)}  # taken out of what would be judged, from nobody's training
    assert [sources(share.train) for share in fleet.shares] == [sources(share.train) for share in plain.shares]
    assert all(len(share.test) for share in fleet.shares)
    of, pairs = SEQUENCE[name], [*product(fleet.root, judged(fleet))]
    apart = [abs(a.timestamp_s - b.timestamp_s) for a, b in pairs if of(a.source) == of(b.source)]
    assert apart or name == "cityscapes"  # whose sequences here have one frame
    assert min(apart, default=GUARD_S) >= GUARD_S
    if name == "cityscapes":
        assert len({Path(frame.source).parent.name for frame in fleet.root}) == 2  # of two cities


@given(
    st.lists(st.lists(st.floats(0, 20), min_size=1, max_size=30, unique=True), min_size=1, max_size=5),
    st.integers(0, 12),
    st.integers(1, 3),
)
def test_what_is_chosen_as_root_is_apart_spread_and_leaves_everyone_something(
    times: list[list[float]], count: int, people: int
) -> None:
    times = [sorted(own) for own in times]
    owners = [[place * people // len(own) for place in range(len(own))] for own in times]
    regions = [f"region-{place % 2}" for place in range(len(times))]
    try:
        chosen = select_root(times, regions, owners, count, GUARD_S)
    except DataError:
        assert count > 0
        assert all(len(own) < 4 or own[-1] - own[0] < 2 or people > 1 for own in times)
        return
    assert sum(len(root) for root, _ in chosen) <= count
    for own, (root, rest), who in zip(times, chosen, owners, strict=True):
        assert all(abs(own[i] - own[j]) >= GUARD_S for i, j in product(root, rest))
        assert {who[j] for j in rest} == set(who)
        assert 2 * len(rest) >= len(own)
    if count == 0:
        assert [rest for _, rest in chosen] == [list(range(len(own))) for own in times]


def test_root_frames_alternate_between_regions_and_lie_at_both_ends() -> None:
    minutes = [[float(second) for second in range(60)] for _ in range(4)]
    chosen = select_root(minutes, ["day", "day", "day", "night"], [[0] * 60] * 4, 5, GUARD_S)
    assert [root for root, _ in chosen] == [[0, 59], [0], [0], [0]]
    chosen = select_root(minutes, ["day", "day", "day", "night"], [[0] * 60] * 4, 2, GUARD_S)
    assert [len(root) for root, _ in chosen] == [1, 0, 0, 1]


@pytest.mark.parametrize(
    "name", ["camvid", "kitti", "nuscenes", "argoverse2", "waymo", "cityscapes", "bdd100k", "town"]
)
def test_a_folder_that_is_missing_or_empty_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: no such folder"):
        load_own_share(name, tmp_path / "gone", "car")
    with pytest.raises(DataError, match=str(tmp_path)):
        load_own_share(name, tmp_path, "car")
    with pytest.raises(DataError, match=str(tmp_path)):
        load_holdout(name, tmp_path, FleetRequest())


def test_images_without_labels_are_nothing_to_learn_from(tmp_path: Path) -> None:
    write_camvid(tmp_path, [f"0001TP_{30 * place}" for place in range(8)])
    for place in range(4):
        (tmp_path / f"labels/0001TP_{30 * place}.png").unlink()
    share = load_own_share("camvid", tmp_path, "car")
    assert (len(share.train), len(share.test)) == (3, 1)
    for path in (tmp_path / "labels").glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="no sequence of CamVid with 2 labelled frames; fetch labels/"):
        load_own_share("camvid", tmp_path, "car")


@given(st.lists(st.one_of(st.text(max_size=80), st.sampled_from(["a", "a-2", "a/b", "a b", "scene-0061"])), max_size=9))
def test_names_are_valid_and_distinct_and_stay_if_they_are(names: list[str]) -> None:
    valid = vehicle_names(names)
    assert len(valid) == len(names) == len({*valid})
    assert all(VEHICLE_NAME.fullmatch(name) for name in valid)
    if len({*names}) == len(names) and all(VEHICLE_NAME.fullmatch(name) for name in names):
        assert valid == names


def test_drives_of_one_name_are_two_vehicles(tmp_path: Path) -> None:
    long = "x" * 64
    for name in (long, "night drive, rain"):
        write_log(tmp_path, sweeps=40, name=name)
    shares = load_fleet("argoverse2", FleetRequest(path=tmp_path, vehicles=4)).shares
    assert len({share.vehicle for share in shares}) == 4
    assert all(VEHICLE_NAME.fullmatch(share.vehicle) for share in shares)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the town."""
    return tmp_path_factory.mktemp("cache")


def test_a_vehicle_of_the_town_renders_its_own_drive_and_a_server_the_holdout(
    town: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONVOY_CACHE", str(town))
    request = FleetRequest(preset="hamlet", root_frames=2)
    drives = lambda: sorted({path.parent.name for path in town.glob("town-*/*/*.npz")})  # noqa: E731
    share = load_share("town", request, 1)
    assert drives() == ["vehicle-1"]
    tier = load_holdout("town", None, request)
    assert drives() == ["holdout-4", "vehicle-1"]
    whole = load_fleet("town", request)
    assert (share.vehicle, share.region) == (whole.shares[1].vehicle, whole.shares[1].region)
    assert sources(share.train) == sources(whole.shares[1].train)
    assert sources(tier.holdout) == sources(whole.holdout)
    for fleet in (tier, whole):
        assert {*sources(fleet.root)}.isdisjoint(sources(judged(fleet)))
        apart = [abs(a.timestamp_s - b.timestamp_s) for a, b in product(fleet.root, fleet.holdout)]
        assert min(apart) >= GUARD_S
        assert (len(fleet.root), len(fleet.holdout)) == (2, 2)
    with pytest.raises(DataError, match="no vehicle -1"):
        load_share("town", request, -1)

    everything = Concatenated("hamlet", "CC0-1.0", [share.train, share.test])
    export_frames(everything, "kitti-object", tmp_path / "car", ExportOptions(), list(range(6)))
    exported = load_own_share("town", tmp_path / "car", "car-1")
    assert len(exported.train) + len(exported.test) == 6
    np.testing.assert_array_equal(exported.test[-1].image, share.test[-1].image)


@pytest.mark.skipif(not DATA, reason="CONVOY_DATA is not set")
@pytest.mark.parametrize("name", ["camvid", "kitti"])
def test_roots_of_real_data_are_apart_from_what_is_judged(name: str) -> None:
    fleet = load_fleet(name, FleetRequest(vehicles=3, root_frames=8))
    root, others = sources(fleet.root), sources(judged(fleet))
    assert 2 <= len(root) <= 8
    assert not {*root} & {*others}
    of, pairs = SEQUENCE[name], [*product(fleet.root, judged(fleet))]
    apart = [abs(a.timestamp_s - b.timestamp_s) for a, b in pairs if of(a.source) == of(b.source)]
    assert min(apart) >= GUARD_S
