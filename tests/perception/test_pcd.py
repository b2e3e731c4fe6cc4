"""PCD files written here to the published format."""

from pathlib import Path

import numpy as np
import pytest

from perception.datasets.base import DataError
from perception.datasets.pcd import read_pcd


def pcd(fields: str, sizes: str, types: str, points: int, data: str, body: bytes) -> bytes:
    header = (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE {sizes}\nTYPE {types}\nCOUNT {'1 ' * len(sizes.split())}\n"
    )
    return (header + f"WIDTH {points}\nHEIGHT 1\nPOINTS {points}\nDATA {data}\n").encode() + body


def test_pcd_binary_and_ascii_give_the_same_points(tmp_path: Path) -> None:
    rows = np.array([[1, 2, 3, 0.5], [4, 5, 6, 0.25]], "<f4")
    (tmp_path / "b.pcd").write_bytes(pcd("x y z intensity", "4 4 4 4", "F F F F", 2, "binary", rows.tobytes()))
    (tmp_path / "a.pcd").write_bytes(pcd("x y z intensity", "4 4 4 4", "F F F F", 2, "ascii", b"1 2 3 .5\n4 5 6 .25\n"))
    np.testing.assert_array_equal(read_pcd(tmp_path / "b.pcd"), rows)
    np.testing.assert_array_equal(read_pcd(tmp_path / "a.pcd"), rows)


def test_pcd_skips_other_fields_padding_and_absent_returns(tmp_path: Path) -> None:
    row = np.dtype([("ring", "<u2"), ("pad", "u1", 2), ("z", "<f8"), ("y", "<f8"), ("x", "<f8")])
    rows = np.array([(7, [0, 0], 3.0, 2.0, 1.0), (8, [0, 0], np.nan, 2.0, 1.0)], row)
    body = pcd("ring _ z y x", "2 1 8 8 8", "U U F F F", 2, "binary", rows.tobytes())
    (tmp_path / "p.pcd").write_bytes(body.replace(b"COUNT 1 1 1 1 1", b"COUNT 1 2 1 1 1"))
    np.testing.assert_array_equal(read_pcd(tmp_path / "p.pcd"), [[1, 2, 3, 0]])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pcd("x y z", "4 4 4", "F F F", 3, "binary", bytes(24)), "POINTS says 3, the file holds 2"),
        (pcd("x y z", "4 4 4", "F F F", 1, "binary_compressed", bytes(12)), "binary_compressed is not read"),
        (pcd("x y i", "4 4 4", "F F F", 1, "binary", bytes(12)), "lacks ['z']"),
        (pcd("x y z", "4 4 4", "F F Q", 1, "binary", bytes(12)), "TYPE/SIZE"),
        (pcd("x y z", "4 4", "F F F", 1, "binary", bytes(12)), "differ in length"),
        (pcd("x y z", "4 4 4", "F F F", 1, "ascii", b"1 2 three\n"), "three"),
        (b"POINTS 3\nDATA ascii\n", "header lacks ['FIELDS', 'SIZE', 'TYPE']"),
        (pcd("x y z", "4 4 4", "F F F", 1, "binary", bytes(12)).replace(b"POINTS 1", b"POINTS all"), "POINTS"),
        (b"solid cube\n", "no DATA line"),
    ],
)
def test_a_broken_pcd_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "broken.pcd"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_pcd(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)
