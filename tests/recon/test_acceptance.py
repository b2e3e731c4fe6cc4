"""What an RSU accepts: refusals by cause, weights and densities by arithmetic, and the same rows in any order."""

import math
import time
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon.acceptance import (
    AcceptanceConfig,
    Budget,
    UploadRefusedError,
    accept,
    check_views,
    nearest_sigma,
    oversized,
    refusal,
    typical_count,
    weights_px,
)
from recon.gaussians import Gaussians
from recon.objective import render_view
from recon.refusal import landmarks_refusal, sound_rows
from recon.views import View

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = AcceptanceConfig()
NO_FLOOR = replace(CONFIG, weight_floor=0.0)
WAY = np.array([[0.0, 0.0], [20.0, 0.0]])


def balls(xyz: Any, opacity: float | list[float] = 0.5, size_m: float = 0.3) -> Gaussians:
    """Grey balls."""
    places = np.asarray(xyz, np.float64).reshape(-1, 3)
    made = Gaussians.from_points(places, np.full(places.shape, 0.5))
    opacities = torch.as_tensor(opacity, dtype=torch.float32).expand(len(places))
    scales = torch.full((len(places), 3), math.log(size_m))
    return replace(made, log_scales=scales, logit_opacities=opacities.logit())


def street(count: int, seed: int) -> Gaussians:
    """Balls within three metres of the way, up to three metres high."""
    rng = np.random.default_rng(seed)
    return balls(rng.uniform((0, -3, 0), (20, 3, 3), (count, 3)), rng.uniform(0.1, 0.9, count).tolist())


def arrays(count: int = 4, **changed: Any) -> dict[str, Any]:
    """A sane upload as numpy arrays, but for what is changed."""
    sane = {name: tensor.numpy() for name, tensor in street(count, 0).tensors().items()}
    return {**sane, **changed}


def with_one(name: str, value: float) -> dict[str, Any]:
    """A sane upload with one value in its second row."""
    broken = arrays()[name].copy()
    broken[1] = value
    return arrays(**{name: broken})


def rows_of(gaussians: Gaussians) -> list[bytes]:
    """Each row's bits, sorted."""
    columns = [gaussians.means, gaussians.log_scales, gaussians.logit_opacities[:, None], gaussians.sh.flatten(1)]
    flat = torch.cat(columns, dim=1)
    return sorted(row.tobytes() for row in flat.numpy())


def test_a_budget_counts_float32() -> None:
    assert Budget.of(100) == Budget(100, 100 * 4 * (3 + 4 + 3 + 1 + 3))
    assert Budget.of(100, degree=1).bytes - Budget.of(100).bytes == 100 * 4 * 9


def test_a_sane_upload_passes() -> None:
    assert refusal(street(4, 0), Budget.of(4), CONFIG) is None
    assert refusal(arrays(), Budget.of(4), CONFIG) is None
    assert refusal(arrays(0), Budget.of(0), CONFIG) is None


@pytest.mark.parametrize("kind", ["float16", "float64", "bfloat16", "readonly"])
def test_any_float_passes(kind: str) -> None:
    if kind == "readonly":
        upload: Any = {name: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for name, a in arrays().items()}
    else:
        upload = street(4, 0).to(dtype=getattr(torch, kind))
    assert refusal(upload, Budget(4, 10_000), CONFIG) is None
    if kind == "readonly":
        upload = Gaussians(**{name: torch.tensor(array) for name, array in upload.items()})
    assert len(accept(upload, Budget(4, 10_000), NO_FLOOR, check_views(WAY)).gaussians) == 4


@pytest.mark.parametrize(
    ("cause", "upload"),
    [
        ("fields", {"means": np.zeros((4, 3))}),
        ("fields", {**{name: a for name, a in arrays().items() if name != "sh"}, "colour": np.zeros((4, 1, 3))}),
        ("count", arrays(5)),
        ("bytes", arrays(4, sh=np.zeros((4, 16, 3), np.float32))),
        ("shape", arrays(4, means=np.zeros((3, 3), np.float32))),
        ("shape", arrays(4, means=np.zeros((), np.float32))),
        ("shape", arrays(4, sh=np.zeros((4, 2, 3), np.float32))),
        ("shape", arrays(4, quats=np.zeros((4, 4, 1), np.float32))),
        ("dtype", arrays(4, means=np.zeros((4, 3), np.int32))),
        ("dtype", arrays(4, means=torch.zeros((4, 3), dtype=torch.int32))),
        ("dtype", arrays(4, means=np.zeros((4, 3), "S4"))),
        ("dtype", arrays(4, means=np.zeros((4, 3), ">f4"))),
        ("dtype", arrays(4, means=np.zeros((4, 3), np.float16))),
        ("not-finite", with_one("sh", math.nan)),
        ("not-finite", with_one("logit_opacities", math.inf)),
        ("position", with_one("means", 5001.0)),
        ("scale", with_one("log_scales", math.log(501.0))),
        ("scale", with_one("log_scales", -200.0)),
        ("rotation", with_one("quats", 0.0)),
        ("rotation", with_one("quats", 3e38)),
        ("opacity", with_one("logit_opacities", -31.0)),
        ("colour", with_one("sh", 1e20)),
    ],
)
def test_what_is_refused_has_a_cause(cause: str, upload: Any) -> None:
    found = refusal(upload, Budget(4, 500), CONFIG)
    assert found is not None
    assert found.cause == cause
    assert len(found.sentence) < 160


def test_limits_are_about_the_rsu() -> None:
    away = arrays(means=arrays()["means"] + np.float32(6000))
    assert refusal(away, Budget.of(4), CONFIG) is not None
    assert refusal(away, Budget.of(4), replace(CONFIG, centre_m=(6000.0, 6000.0, 6000.0))) is None


@pytest.mark.parametrize("shape", [("many", 3), (-1, 3), (1.5, 3)])
def test_declared_lengths_are_whole(shape: Any) -> None:
    shapes = {name: array.shape for name, array in arrays().items()}
    found = oversized({**shapes, "means": shape}, 0, Budget.of(4))
    assert found is not None
    assert found.cause == "shape"


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_hundred_budgets_cost_nothing(library: str) -> None:
    budget, count = Budget.of(10_000_000), 1_000_000_000  # 56 GB, of which not a byte exists
    shapes = {name: (count, *array.shape[1:]) for name, array in arrays().items()}
    if library == "numpy":
        upload: Any = {name: np.broadcast_to(np.float32(np.nan), shape) for name, shape in shapes.items()}
    else:
        upload = {name: torch.tensor(math.nan).expand(shape) for name, shape in shapes.items()}
    tracemalloc.start()
    began = time.process_time()
    found = refusal(upload, budget, CONFIG)
    took_s, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None
    assert found.cause == "count"
    assert took_s < 0.5
    assert peak < 1_000_000


def test_what_is_declared_is_believed_only_to_refuse() -> None:
    shapes = {name: array.shape for name, array in arrays().items()}
    assert oversized(shapes, 224, Budget.of(4)) is None
    found = oversized(shapes, 225, Budget.of(4))
    assert found is not None
    assert found.cause == "bytes"


def test_accept_raises_what_is_counted() -> None:
    with pytest.raises(UploadRefusedError, match="5 rows, the budget is 4") as raised:
        accept(street(5, 0), Budget.of(4), NO_FLOOR, [])
    assert raised.value.cause == "count"


def test_far_is_meant_from_the_middle_of_the_waypoints() -> None:
    """A street 6 km from the origin, as in a city's frame: limits of 5 km lie about the street."""
    way_m = np.array([[6000.0, 10.0], [6020.0, 10.0]])
    limits = AcceptanceConfig().about(way_m)
    assert limits.centre_m == (6010.0, 10.0, 0.0)
    places_m = np.array([[6000.0, 0, 0], [1011.0, 10, 0], [1009.0, 10, 0], [6010.0, 10, -5001.0]])
    assert limits.within(places_m).tolist() == [True, True, False, False]
    upload = balls(places_m)
    assert sound_rows(upload, limits).tolist() == [True, True, False, False]
    assert landmarks_refusal(places_m[:2], limits) is None
    refused = landmarks_refusal(places_m, limits)
    assert refused is not None
    assert refused.sentence.startswith("2 landmarks lie beyond 5000 m")


def test_what_no_check_view_shows_is_dropped() -> None:
    wall = balls([[10, 0, 1.5]], 0.9999, size_m=3.0)
    shown, hidden, buried = balls([[4, 0.5, 1.5]]), balls([[10.01, 0, 1.5]], size_m=0.05), balls([[5, 0, -60]])
    upload = Gaussians.concat([hidden, wall, buried, shown])
    views = check_views(WAY, apart_m=20.0)  # both ends, to the east and to the west
    found = accept(upload, Budget.of(4), CONFIG, [views[0]])
    assert found.rows.tolist() == [1, 3]
    assert found.gaussians.means.tolist() == upload.means[[1, 3]].tolist()
    assert found.dropped == {"fog": 0, "unseen": 2, "crowded": 0}


def test_what_a_check_camera_stands_in_is_fog() -> None:
    views = check_views(WAY, apart_m=20.0)  # at 0 and 20 m east, 1.5 m up
    flat = replace(balls([[0, 0, 0]]), log_scales=torch.tensor([[5.0, 5.0, 0.5]]).log())
    upright = replace(flat, quats=torch.tensor([[math.sqrt(0.5), 0, math.sqrt(0.5), 0]]))  # turned about north
    upload = Gaussians.concat([flat, upright, balls([[26, 8, 1.5]], 0.01, size_m=5.0), balls([[23, 0, 1.5]], size_m=4)])
    assert nearest_sigma(upload, views).tolist() == pytest.approx([3, 0.3, 2, 0.75], rel=1e-5)
    assert nearest_sigma(upload, []).tolist() == [math.inf] * 4
    found = accept(upload, Budget.of(4), NO_FLOOR, views)
    assert found.rows.tolist() == [0, 2]
    assert found.dropped == {"fog": 2, "unseen": 0, "crowded": 0}
    assert len(accept(upload, Budget.of(4), replace(NO_FLOOR, clear_sigma=0.0), views).rows) == 4


def test_weights_sum_to_what_is_covered() -> None:
    views, scene = check_views(WAY), street(50, 1)
    covered = sum(float(render_view(scene, view)[1].double().sum()) for view in views)
    assert float(weights_px(scene, views).sum()) == pytest.approx(covered, rel=1e-4)
    assert weights_px(Gaussians.empty(), views).shape == (0,)


def test_typical_is_what_a_gaussian_sees() -> None:
    five = balls([[0.5, 0.5, 0]] * 3 + [[1.5, 0.5, 0], [2.5, 0.5, 0]])  # share cells of 1 m with 3, 3, 3, 1, 1
    two = balls([[0.5, 0.5, 0], [-0.5, 0.5, 0]])  # 1, 1
    five, two, none = ((part, Budget.of(8)) for part in (five, two, Gaussians.empty()))
    assert typical_count([five], 1.0, Budget.of(8)) == 3
    assert typical_count([five], 2.0, Budget.of(8)) == 4  # four in the first cell
    assert typical_count([five, two], 1.0, Budget.of(8)) == 2
    assert typical_count([five, two, two], 1.0, Budget.of(8)) == 1
    assert typical_count([five, none], 1.0, Budget.of(8)) == 3
    assert typical_count([none], 1.0, Budget.of(8)) is None


def test_who_may_have_more_may_have_more_in_a_cell() -> None:
    """A neighbour of a third of the budget counts three times; one of twice the budget as it is."""
    one = balls([[0.5, 0.5, 0]])
    assert typical_count([(one, Budget.of(10))], 1.0, Budget.of(30)) == 3
    assert typical_count([(one, Budget.of(60))], 1.0, Budget.of(30)) == 1
    assert typical_count([(one, Budget.of(60)), (one, Budget.of(10))], 1.0, Budget.of(30)) == 2


def test_a_crowd_keeps_its_heaviest() -> None:
    crowd = balls([[8.5, 0.5 + 0.01 * n, 1.5] for n in range(6)], [0.1, 0.6, 0.2, 0.5, 0.3, 0.4], size_m=0.05)
    others = balls([[12.5, 0.5, 1.5], [12.5, 2.5, 1.5]])
    apart = balls([[0.5, 9.5, 0]] * 2)  # typical of neighbours: 2 in a cell of 1 m
    config = replace(NO_FLOOR, density_ratio=1.5, cell_m=1.0)  # 3 are the most
    views = check_views(WAY, apart_m=20.0)[:1]
    upload = Gaussians.concat([crowd, others])
    weights = weights_px(upload, views)[:6]
    found = accept(upload, Budget.of(8), config, views, [(apart, Budget.of(8))])
    assert found.rows.tolist() == [*sorted(weights.topk(3).indices.tolist()), 6, 7]
    assert found.dropped == {"fog": 0, "unseen": 0, "crowded": 3}
    assert len(accept(upload, Budget.of(8), config, views).gaussians) == 8  # no neighbour, no crowd
    assert (
        len(accept(upload, Budget.of(8), replace(config, density_ratio=3), views, [(apart, Budget.of(8))]).gaussians)
        == 8
    )


def test_nothing_is_accepted_as_nothing() -> None:
    found = accept(Gaussians.empty(), Budget.of(0), CONFIG, check_views(WAY), [(street(5, 0), Budget.of(5))])
    assert len(found.gaussians) == 0
    assert found.dropped == {"fog": 0, "unseen": 0, "crowded": 0}


@given(st.integers(0, 1000), st.integers(0, 60), st.sampled_from([0.0, 0.5, 5.0]), st.integers(0, 80))
@settings(max_examples=25, deadline=None)
def test_never_more_than_the_budget(seed: int, count: int, floor: float, most: int) -> None:
    config, upload = replace(CONFIG, weight_floor=floor, density_ratio=1.0, cell_m=4.0), street(count, seed)
    budget = Budget.of(most)
    try:
        found = accept(upload, budget, config, check_views(WAY, apart_m=10.0), [(street(20, seed + 1), budget)])
    except UploadRefusedError:
        assert count > most
        return
    assert len(found.gaussians) <= most
    assert found.gaussians.nbytes <= budget.bytes
    assert len(found.gaussians) + sum(found.dropped.values()) == count
    assert set(rows_of(found.gaussians)) <= set(rows_of(upload))


@given(st.integers(0, 1000), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_no_order_matters(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    twice = street(count, seed)
    upload = Gaussians.concat([twice, twice.select(torch.arange(count // 2))])  # as copies have it: alike, and in place
    parts, views = [(street(n, seed + n), Budget.of(n)) for n in (10, 25, 40)], check_views(WAY)
    config = replace(CONFIG, weight_floor=2.0, density_ratio=0.8, cell_m=4.0)
    shuffle = torch.from_numpy(rng.permutation(len(upload)))
    turned = [views[index] for index in rng.permutation(len(views))]
    found = accept(upload, Budget.of(len(upload)), config, views, parts)
    other = accept(upload.select(shuffle), Budget.of(len(upload)), config, turned, parts[::-1])
    assert rows_of(found.gaussians) == rows_of(other.gaussians)
    assert found.dropped == other.dropped


def centre(view: View) -> Tensor:
    return -view.viewmat[:3, :3].T @ view.viewmat[:3, 3]


def test_check_views_stand_along_the_way_and_look_both_ways() -> None:
    views = check_views(np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]]), apart_m=5.0)
    places = torch.stack([centre(view) for view in views[::2]])
    corner = torch.tensor([[0, 0, 1.5], [5, 0, 1.5], [10, 0, 1.5], [10, 5, 1.5], [10, 10, 1.5]])
    torch.testing.assert_close(places, corner, atol=1e-5, rtol=0)
    ahead = torch.stack([view.viewmat[2, :3] for view in views])
    east, north = [1.0, 0, 0], [0, 1.0, 0]
    torch.testing.assert_close(ahead[::2], torch.tensor([east, east, north, north, north]), atol=1e-6, rtol=0)
    torch.testing.assert_close(ahead[1::2], -ahead[::2], atol=1e-6, rtol=0)
    assert all((view.viewmat[1, :3] == torch.tensor([0.0, 0, -1])).all() for view in views)  # down is down


def test_check_views_have_the_size_and_angle_that_were_asked_for() -> None:
    (view,) = check_views(WAY, apart_m=50.0, size_px=(60, 80), fov_rad=math.pi / 2, headings_rad=(0.0,))[:1]
    assert view.size_px == (60, 80)
    torch.testing.assert_close(view.intrinsics, torch.tensor([[40.0, 0, 40], [0, 40, 30], [0, 0, 1]]))
    assert not view.image.any()


def test_check_views_follow_the_road_uphill() -> None:
    uphill = check_views(np.array([[0.0, 0, 100], [0, 4, 103], [0, 4, 103]]), apart_m=2.5, height_m=2.0)
    assert [round(float(centre(view)[2]), 4) for view in uphill[::2]] == [102, 103.5, 105]  # 5 m long, 3 m high


@pytest.mark.parametrize("count", [1, 3])
def test_where_all_places_are_one_cameras_look_around(count: int) -> None:
    views = check_views(np.full((count, 2), 7.0), height_m=2.0)
    ahead = [view.viewmat[2, :2].tolist() for view in views]  # the third row is the camera's axis in the world
    assert ahead == [pytest.approx(axis, abs=1e-6) for axis in ([1, 0], [0, 1], [-1, 0], [0, -1])]
    assert all(torch.allclose(centre(view), torch.tensor([7.0, 7, 2]), atol=1e-5) for view in views)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Budget(-1, 5), "must not be negative"),
        (lambda: AcceptanceConfig(largest_m=0.0), "largest_m must be finite and positive"),
        (lambda: AcceptanceConfig(weight_floor=-1.0), "weight_floor"),
        (lambda: AcceptanceConfig(cell_m=math.inf), "cell_m"),
        (lambda: AcceptanceConfig(centre_m=(0.0, math.nan, 0.0)), "centre_m must be finite"),
        (lambda: accept(street(4, 0), Budget.of(4), CONFIG, []), "needs a check view"),
        (lambda: check_views(np.zeros((0, 2))), "holds no place"),
        (lambda: check_views(np.zeros((3, 4))), "waypoints_m must be finite"),
        (lambda: check_views(np.full((3, 2), math.nan)), "waypoints_m must be finite"),
        (lambda: check_views(WAY, apart_m=0.0), "positive apart_m"),
        (lambda: check_views(WAY, fov_rad=4.0), "fov_rad"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "value"),
    [("means", 6000.0), ("log_scales", -12.0), ("log_scales", 7.0), ("quats", 0.0), ("logit_opacities", 31.0),
     ("sh", -51.0), ("means", math.nan), ("quats", math.inf)],
)  # fmt: skip
def test_rows_that_would_spoil_an_upload_are_told_before_it_is_sent(name: str, value: float) -> None:
    tensors = {field: torch.from_numpy(np.array(column)) for field, column in with_one(name, value).items()}
    broken = Gaussians.unchecked(**tensors)
    rows = sound_rows(broken, CONFIG)
    assert rows.tolist() == [True, False, True, True]
    assert refusal(broken, Budget.of(4), CONFIG) is not None
    assert refusal(broken.select(rows), Budget.of(4), CONFIG) is None
