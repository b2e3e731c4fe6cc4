"""CamVid: files written here to the layout of the SegNet tutorial, and the real sample below CONVOY_DATA."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception.datasets.base import DataError, FleetRequest
from perception.datasets.camvid import CamVid, load_camvid
from perception.datasets.folder import format_of, open_dataset
from perception.labels import SEGMENT_ID

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")
needs_camvid = pytest.mark.skipif(
    not (CONVOY_DATA and (Path(CONVOY_DATA) / "camvid").is_dir()),
    reason="set CONVOY_DATA to a folder with camvid/ to test on real frames",
)


def write_camvid(root: Path, stems: list[str]) -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for stem in stems:
        Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(root / f"images/{stem}.png")
        masks = np.arange(12, dtype=np.uint8).repeat(16).reshape(12, 16)
        Image.fromarray(masks).save(root / f"labels/{stem}.png")
    return root


def test_masks_keep_their_classes_and_unlabelled_becomes_255(tmp_path: Path) -> None:
    frame = CamVid(write_camvid(tmp_path, ["0006R0_f00930"]))[0]
    assert frame.masks is not None
    assert frame.masks[:, 0].tolist() == [*range(11), 255]
    assert frame.boxes is None
    assert frame.timestamp_s == 31  # frame 930 at 30 a second
    # A 60 degree view of 16 px: 8 / tan(30 degrees).
    assert frame.camera.fx_px == pytest.approx(8 * np.sqrt(3))


def test_sequences_follow_their_names_and_numbers(tmp_path: Path) -> None:
    stems = ["0016E5_00390", "0001TP_006900", "0001TP_006690", "0016E5_01140"]
    frames = CamVid(write_camvid(tmp_path, stems))
    assert frames.sequences == {"0001TP": (0, 1), "0016E5": (2, 3)}
    assert [round(t * 30) for t in frames.timestamps_s] == [6690, 6900, 390, 1140]


def test_an_image_without_masks_is_unlabelled_and_masks_without_an_image_are_an_error(tmp_path: Path) -> None:
    root = write_camvid(tmp_path, ["0001TP_1", "0001TP_2"])
    (root / "labels/0001TP_1.png").unlink()
    (root / "images/0001TP_2.png").unlink()
    frames = CamVid(root)
    assert frames[0].masks is None
    with pytest.raises(DataError, match=r"images/0001TP_2\.png: not found; "):
        frames[1]


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        (np.full((12, 16), 12, np.uint8), "class 12, want 0..11"),
        (np.zeros((6, 8), np.uint8), r"\(6, 8\), the image \(12, 16\)"),
        (np.zeros((12, 16, 3), np.uint8), "mode RGB, want one channel"),
    ],
)
def test_masks_of_another_kind_are_named(tmp_path: Path, masks: np.ndarray, says: str) -> None:
    root = write_camvid(tmp_path, ["0001TP_1"])
    Image.fromarray(masks).save(root / "labels/0001TP_1.png")
    with pytest.raises(DataError, match=rf"labels/0001TP_1\.png: .*{says}"):
        CamVid(root)[0]


def test_other_names_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        CamVid(tmp_path)
    with pytest.raises(DataError, match="'holiday' is not named SEQUENCE_NUMBER"):
        CamVid(write_camvid(tmp_path, ["holiday"]))


@pytest.fixture
def three_sequences(tmp_path: Path) -> Path:
    names = ("0001TP", "0006R0", "0016E5")
    return write_camvid(tmp_path, [f"{name}_{30 * place}" for name in names for place in range(8)])


def test_three_vehicles_are_the_three_sequences_under_two_regions(three_sequences: Path) -> None:
    fleet = load_camvid(FleetRequest(path=three_sequences, vehicles=3))
    assert [(share.vehicle, share.region) for share in fleet.shares] == [
        ("0001TP", "dusk"),
        ("0006R0", "day"),
        ("0016E5", "day"),
    ]
    for share in fleet.shares:
        assert [frame.timestamp_s for frame in share.train] == [0, 1, 2, 3, 4, 5]
        assert [frame.timestamp_s for frame in share.test] == [6, 7]
    held = {frame.source for frame in fleet.holdout}
    assert held == {frame.source for share in fleet.shares for frame in share.test}
    assert not held & {frame.source for share in fleet.shares for frame in share.train}


@pytest.mark.parametrize(
    ("vehicles", "parts"),
    [(0, (1, 1, 1)), (1, (1, 0, 0)), (2, (1, 1, 0)), (5, (2, 2, 1)), (6, (2, 2, 2)), (12, (4, 4, 4))],
)
def test_other_numbers_of_vehicles(three_sequences: Path, vehicles: int, parts: tuple[int, ...]) -> None:
    shares = load_camvid(FleetRequest(path=three_sequences, vehicles=vehicles)).shares
    names = [share.vehicle.partition("-")[0] for share in shares]
    assert tuple(names.count(name) for name in ("0001TP", "0006R0", "0016E5")) == parts
    assert len({share.vehicle for share in shares}) == sum(parts)
    sources = [frame.source for share in shares for part in (share.train, share.test) for frame in part]
    assert len(sources) == len(set(sources)) == 8 * sum(part > 0 for part in parts)


def test_limits_are_checked(three_sequences: Path) -> None:
    with pytest.raises(DataError, match=r"13 vehicles .* at most 12"):
        load_camvid(FleetRequest(path=three_sequences, vehicles=13))
    with pytest.raises(DataError, match="frames-per-vehicle 1;"):
        load_camvid(FleetRequest(path=three_sequences, vehicles=1, frames_per_vehicle=1))
    capped = load_camvid(FleetRequest(path=three_sequences, vehicles=1, frames_per_vehicle=4)).shares[0]
    assert (len(capped.train), len(capped.test)) == (3, 1)


def test_folders_are_told_apart(three_sequences: Path) -> None:
    assert format_of(three_sequences) == "CamVid"
    assert len(open_dataset(three_sequences)) == 24
    with pytest.raises(DataError, match=r"Recognised layouts:(.|\n)*KITTI raw(.|\n)*is CamVid"):
        open_dataset(three_sequences.parent)
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(three_sequences / "nowhere")


@needs_camvid
def test_real_masks_lie_where_streets_have_them() -> None:
    frames = CamVid(Path(CONVOY_DATA) / "camvid")
    assert {name: len(indices) for name, indices in frames.sequences.items()} == dict.fromkeys(
        ("0001TP", "0006R0", "0016E5"), 8
    )
    masks = np.stack([frame.masks for frame in frames])
    rows = np.arange(360)[None, :, None]
    mean_row = {
        name: (rows * (masks == SEGMENT_ID[name])).sum() / (masks == SEGMENT_ID[name]).sum() for name in SEGMENT_ID
    }
    assert mean_row["sky"] < mean_row["building"] < mean_row["vehicle"] < mean_row["road"]
    # Roads are grey and the sky is brighter than they are; a shift in the class order would not survive this.
    images = np.stack([frame.image for frame in frames]).astype(float).mean(axis=-1)
    assert images[masks == SEGMENT_ID["sky"]].mean() > 1.5 * images[masks == SEGMENT_ID["road"]].mean()


@needs_camvid
def test_real_dusk_is_darker_than_day() -> None:
    fleet = load_camvid(FleetRequest(vehicles=3))
    brightness = {share.vehicle: np.mean([frame.image.mean() for frame in share.train]) for share in fleet.shares}
    assert brightness["0001TP"] < 0.75 * min(brightness["0006R0"], brightness["0016E5"])
