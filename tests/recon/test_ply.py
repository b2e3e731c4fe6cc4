"""Splat files: there and back, by hand, through other libraries, and damaged in every way."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.gaussians import Gaussians
from recon.ply import read_ply, write_ply
from recon.spz import read_spz, write_spz
from tests.recon.test_gaussians import scene


def same(first: Gaussians, second: Gaussians) -> None:
    for name, tensor in first.tensors().items():
        torch.testing.assert_close(tensor, second.tensors()[name], atol=0, rtol=0)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_there_and_back(tmp_path: Path, degree: int, count: int) -> None:
    before = scene(count, degree, dtype=torch.float32)
    write_ply(tmp_path / "scene.ply", before)
    same(read_ply(tmp_path / "scene.ply"), before)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.ply"]


def test_gradients_and_doubles_are_written_as_floats(tmp_path: Path) -> None:
    write_ply(tmp_path / "scene.ply", scene().requires_grad_())
    same(read_ply(tmp_path / "scene.ply"), scene().to(dtype=torch.float32))


def hand_made(order: str = "<") -> bytes:
    """One Gaussian of degree 1; the value of a property is its place in the list."""
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *[f"f_rest_{i}" for i in range(9)]]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    kind = {"<": "little", ">": "big"}[order]
    header = ["ply", f"format binary_{kind}_endian 1.0", "comment by hand", "element vertex 1"]
    header += [f"property float {name}" for name in names] + ["end_header\n"]
    return "\n".join(header).encode() + struct.pack(f"{order}26f", *range(26))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_file_by_hand(tmp_path: Path, order: str) -> None:
    (tmp_path / "a.ply").write_bytes(hand_made(order))
    found = read_ply(tmp_path / "a.ply")
    assert found.means.tolist() == [[0, 1, 2]]
    red, green, blue = [6, 9, 10, 11], [7, 12, 13, 14], [8, 15, 16, 17]  # band 0, then three of each channel
    assert found.sh[0].T.tolist() == [red, green, blue]
    assert found.logit_opacities.tolist() == [18]
    assert found.log_scales.tolist() == [[19, 20, 21]]
    assert found.quats.tolist() == [[22, 23, 24, 25]]


def test_what_is_written_is_what_was_made_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_bytes(hand_made())
    write_ply(tmp_path / "b.ply", read_ply(tmp_path / "a.ply"))
    written = (tmp_path / "b.ply").read_bytes()
    expected = hand_made().replace(b"comment by hand\n", b"")
    values = np.frombuffer(expected[-26 * 4 :], "<f4").copy()
    values[3:6] = 0  # normals
    assert written == expected[: -26 * 4] + values.tobytes()


def test_other_properties_elements_and_line_ends_are_ignored(tmp_path: Path) -> None:
    header, data = hand_made().split(b"end_header\n")
    header = header.replace(b"element vertex", b"element camera 2\nproperty uchar id\nelement vertex")
    header += b"property double time\nproperty uchar label\nelement face 1\nproperty list uchar int vertex_indices\n"
    body = b"\1\2" + data + struct.pack("<dB", 0.5, 7) + b"\3" + struct.pack("<3i", 0, 0, 0)
    (tmp_path / "a.ply").write_bytes(header.replace(b"\n", b"\r\n") + b"end_header\r\n" + body)
    (tmp_path / "b.ply").write_bytes(hand_made())
    same(read_ply(tmp_path / "a.ply"), read_ply(tmp_path / "b.ply"))


def test_plyfile_reads_the_same(tmp_path: Path) -> None:
    plyfile = pytest.importorskip("plyfile", reason="needs plyfile: pip install plyfile")
    before = scene(20, dtype=torch.float32)
    write_ply(tmp_path / "a.ply", before)
    vertex = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"]
    assert len(vertex.properties) == 62  # 59 parameters and the normals
    np.testing.assert_array_equal(vertex["f_rest_16"], before.sh[:, 2, 1].numpy())  # 15 of red, then green's second
    np.testing.assert_array_equal(vertex["rot_0"], before.quats[:, 0].numpy())
    plyfile.PlyData([plyfile.PlyElement.describe(vertex.data, "vertex")]).write(tmp_path / "b.ply")
    same(read_ply(tmp_path / "b.ply"), before)


def replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data: b"", "no line 'end_header'"),
        (lambda data: data[:100], "no line 'end_header'.*copy it again"),
        (lambda data: data[:-1], "cut off, 0 of 1 rows"),
        (lambda data: b"solid" + data, "no .ply file"),
        (lambda data: bytes(range(256)) * 500, "no .ply file"),
        (lambda data: b"ply\n" + b"comment x\n" * 10000, "first 65536 bytes"),
        (replace(b"binary_little_endian", b"ascii"), "format ascii is not read; save it as binary_little_endian"),
        (replace(b"binary_little_endian", b"binary"), "format 'binary', want"),
        (replace(b"format binary_little_endian 1.0\n", b""), "format 'none', want"),
        (replace(b"element vertex 1", b"element vertex"), "want 'element NAME COUNT'"),
        (replace(b"element vertex 1", b"element vertex -1"), "want 'element NAME COUNT'"),
        (replace(b"element vertex 1", b"element vertex 9999999999999"), "1 of 9999999999999 rows"),
        (replace(b"element vertex 1", b"element point 1"), "no element vertex"),
        (replace(b"element vertex 1\n", b""), "before any element"),
        (replace(b"property float opacity", b"property list uchar float opacity"), "is a list"),
        (replace(b"property float opacity", b"property half opacity"), "want 'property TYPE NAME'"),
        (replace(b"float rot_3", b"float rot_2"), "or one twice"),
        (replace(b"float opacity", b"float alpha"), "no property opacity"),
        (replace(b"float f_rest_4", b"float f_rest_99"), "no property f_rest_4"),
        (replace(b"float f_rest_8", b"float rest"), "8 properties f_rest_"),
        (replace(struct.pack("<f", 18), struct.pack("<f", np.nan)), "logit_opacities holds NaN.*remove these rows"),
        (replace(struct.pack("<4f", 22, 23, 24, 25), bytes(16)), "quats is zero"),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Callable[[bytes], bytes], text: str) -> None:
    path = tmp_path / "scene.ply"
    path.write_bytes(damage(hand_made()))
    with pytest.raises(ValueError, match=text) as caught:
        read_ply(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scene.ply: cannot be read \(No such file"):
        read_ply(tmp_path / "scene.ply")


def spz_library() -> None:
    pytest.importorskip("gsply", reason="needs gsply: pip install gsply")


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spz_there_and_back(tmp_path: Path, degree: int) -> None:
    spz_library()
    before = scene(200, degree, dtype=torch.float32)
    before = Gaussians(**{**before.tensors(), "sh": before.sh.clamp(-0.9, 0.9)})
    write_spz(tmp_path / "a.spz", before)
    after = read_spz(tmp_path / "a.spz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.spz"]
    half_step = {"means": 2**-13, "log_scales": 1 / 32, "sh": 0.015}  # of colours: 1/255 / 0.15, halved
    for name, step in half_step.items():
        assert (after.tensors()[name] - before.tensors()[name]).abs().max() <= step * 1.001
    assert (after.opacities - before.opacities).abs().max() <= 0.501 / 255
    assert (after.rotations - before.rotations).abs().max() < 0.01


def test_spz_refusals(tmp_path: Path) -> None:
    spz_library()
    far = scene(3, dtype=torch.float32)
    far = Gaussians(**{**far.tensors(), "means": far.means + 3000})
    with pytest.raises(ValueError, match="3 centres lie 2048 m or more"):
        write_spz(tmp_path / "a.spz", far)
    write_spz(tmp_path / "a.spz", scene(3, dtype=torch.float32))
    (tmp_path / "cut.spz").write_bytes((tmp_path / "a.spz").read_bytes()[:-20])
    (tmp_path / "other.spz").write_bytes(b"nothing")
    for name in ("cut", "other", "missing"):
        with pytest.raises(ValueError, match=f"{name}.spz: no readable .spz"):
            read_spz(tmp_path / f"{name}.spz")


def test_spz_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsply", None)
    with pytest.raises(ImportError, match="pip install gsply"):
        read_spz(tmp_path / "a.spz")
