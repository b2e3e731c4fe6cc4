"""Traffic of the town: lights, right of way, zebras, indicators, and that nobody drives through anybody."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry import Trace
from perception.datasets.base import DataError
from perception.datasets.town.clearance import granted, overlapping, overlapping_pairs
from perception.datasets.town.config import PRESETS, TownConfig
from perception.datasets.town.driving import STEP_S, Driver, simulate
from perception.datasets.town.junctions import conflict, crossings
from perception.datasets.town.layout import HALF_ROAD_M, JUNCTION_M, KERB_M, plan_town
from perception.datasets.town.populace import populate
from perception.datasets.town.routes import (
    CAR_OFFSET_M,
    grand_tour,
    lane_path,
    neighbours,
    path_through,
    regions_near,
    toured,
)
from perception.datasets.town.signals import CYCLE_S, Light, green, has_signals, offset_s
from perception.datasets.town.traces import indicator
from perception.datasets.town.traffic import SENSING_PER_REGION, Day, plan_day, plan_holdout
from perception.datasets.town.walking import Stroll

HAMLET = replace(PRESETS["hamlet"], seed=3)
CITY = TownConfig(rsus=64, vehicles=1)


@pytest.fixture(scope="module")
def tour() -> Day:
    return plan_holdout(plan_town(HAMLET), HAMLET)


@pytest.fixture(scope="module")
def day() -> Day:
    return plan_day(plan_town(HAMLET), HAMLET, 0, 60)


def _poses(traces: list[Trace], times_s: np.ndarray) -> np.ndarray:
    """x, y, yaw [t, n, 3] of traces at times."""
    then = [trace.at(times_s) for trace in traces]
    return np.stack([np.column_stack([t.positions_m[:, :2], t.yaw_rad]) for t in then], axis=1)


def _collisions(traces: list[Trace], times_s: np.ndarray) -> set[tuple[str, str]]:
    """Pairs whose rectangles, 5 cm smaller on each side, overlap at one of the times."""
    sizes, found = np.array([trace.size_m[:2] for trace in traces]), set()
    for poses in _poses(traces, times_s):
        pairs = overlapping_pairs(poses, sizes, -0.05)
        found |= {(traces[i].name, traces[j].name) for i, j in zip(*pairs, strict=True)}
    return found


def test_rectangles_overlap_where_arithmetic_says() -> None:
    """A unit square turned by 45 degrees reaches 0.707 along x; beside an upright one they touch at 1.207."""
    upright, half = np.array([[0.0, 0.0, 0.0]]), np.array([[0.5, 0.5]])
    for x, expected in ((1.2, True), (1.21, False)):
        assert overlapping(upright, np.array([[x, 0.0, np.pi / 4]]), half, half).tolist() == [expected]
    crossed = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, np.pi / 2], [9.0, 0.0, 0.0]])  # a cross: no corner inside the other
    pairs = overlapping_pairs(crossed, np.array([[4.0, 0.2], [4.0, 0.2], [1.0, 1.0]]))
    assert [column.tolist() for column in pairs] == [[0], [1]]


def test_of_two_that_would_collide_the_one_behind_stays() -> None:
    now = np.array([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [20.0, 0.0, 0.0]])
    wished = now + np.array([[2.0, 0, 0], [0.5, 0, 0], [1.0, 0, 0]])
    assert granted(now, wished, np.full((3, 2), 4.0)).tolist() == [False, True, True]


def test_lights_show_each_axis_fifteen_seconds_of_green_and_never_both() -> None:
    times = np.arange(0, CYCLE_S, 0.5)
    for node in ((0, 0), (1, 1), (2, 4)):
        shown = np.array([[green(node, axis, float(t)) for t in times] for axis in (0, 1)])
        assert ((shown == Light.GREEN).sum(axis=1) == 30).all()
        assert ((shown == Light.AMBER).sum(axis=1) == 6).all()
        assert ((shown != Light.RED).sum(axis=0) <= 1).all()
        assert [green(node, 0, float(t) + 5 * CYCLE_S) for t in times] == shown[0].tolist()
    assert green((0, 0), 0, 14.9) == Light.GREEN  # node (0, 0) has no offset
    assert green((0, 0), 0, 15.1) == Light.AMBER
    assert green((0, 0), 0, 18.1) == Light.RED
    assert green((0, 0), 1, 20.0) == Light.GREEN
    assert offset_s((1, 1)) == 6.0  # 17 + 29 = 46, less a cycle of 40
    with pytest.raises(ValueError, match="axes"):
        green((0, 0), 2, 0.0)


def test_every_neighbour_of_a_junction_with_lights_has_none() -> None:
    layout = plan_town(CITY)
    for node in layout.nodes_of(9):
        assert all(has_signals(node) != has_signals(other) for other in neighbours(layout, node))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((2, 0, 1), (0, 2, 1), False),  # straight on, against each other
        ((2, 0, 1), (3, 1, 1), True),  # crossing
        ((2, 1, 1), (0, 2, 1), True),  # left turn before oncoming traffic
        ((2, 3, 1), (0, 3, 1), True),  # into the same street
        ((2, 3, 1), (3, 1, 1), False),  # right turn beside one who comes from the right
        ((2, 3, 1), (2, 0, 0), True),  # right turn across a cyclist
        ((2, 0, 1), (2, 0, 0), False),  # side by side
        ((2, 0, 1), (2, 1, 1), False),  # one behind the other
    ],
)
def test_ways_across_a_junction_conflict_as_in_traffic_law(a: tuple, b: tuple, expected: bool) -> None:
    assert conflict(a, b) is conflict(b, a) is expected


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), region=st.integers(0, 2))
def test_no_two_road_users_overlap(seed: int, region: int) -> None:
    """Cars, buses, cyclists, walkers and strollers of a region, at every step of 30 s."""
    config = TownConfig(seed=seed, rsus=9, vehicles=3, warmup_s=0.0, rate_hz=10.0)
    layout = plan_town(config)
    people = populate(layout, config, 0, region, SENSING_PER_REGION, 30.0)
    sizes = np.array([look[1][:2] for look in people.walker_looks], float).reshape(-1, 2)
    motion = simulate(people.drivers, people.walkers, sizes, 30.0)
    everyone = np.concatenate([motion.drivers, motion.walkers], axis=1)
    all_sizes = np.concatenate([np.array([driver.size_m for driver in people.drivers]), sizes])
    for poses in everyone:
        assert not len(overlapping_pairs(poses, all_sizes, -0.05)[0])


def test_nobody_overlaps_in_a_whole_day_at_frame_times_and_between_them(day: Day) -> None:
    moving = [actor.trace for actor in day.actors[day.parked :]]
    assert {trace.kind for trace in moving} >= {"car", "bicycle", "pedestrian"}
    assert _collisions(moving, np.arange(0.0, day.times_s[-1], 0.13)) == set()


def test_moving_vehicles_stay_clear_of_parked_ones(day: Day) -> None:
    traces = [actor.trace for actor in day.actors if actor.trace.kind != "pedestrian"]
    assert len({len(trace) for trace in traces}) == 2  # parked ones have one sample
    assert _collisions(traces, np.arange(0.0, day.times_s[-1], 1.0)) == set()


def test_red_lights_are_obeyed_at_the_stop_line() -> None:
    """At no step does a front end pass the line at a junction with lights while its light is red."""
    config = TownConfig(seed=5, rsus=3)
    layout, passed = plan_town(config), 0
    people = populate(layout, config, 0, 1, 2, 120.0)
    motion = simulate(people.drivers, [], np.zeros((0, 2)), 120.0)
    for driver, s in zip(people.drivers, motion.s_m.T, strict=True):
        for way in crossings(driver.path)[:-1]:
            step = int(np.searchsorted(s + driver.size_m[0] / 2, way.enter_m))
            if has_signals(way.node) and 0 < step < len(s):
                assert green(way.node, way.origin % 2, (step - 1) * STEP_S) != Light.RED
                passed += 1
    assert passed > 30


def test_traffic_flows_with_lights_and_people() -> None:
    """In 160 s a region's drivers cover 1.5 m/s in the mean, and in the last minute five of six have moved."""
    config = TownConfig(seed=2, rsus=3)
    people = populate(plan_town(config), config, 0, 1, 2, 160.0)
    sizes = np.array([look[1][:2] for look in people.walker_looks], float).reshape(-1, 2)
    motion = simulate(people.drivers, people.walkers, sizes, 160.0)
    assert (motion.s_m[-1] - motion.s_m[0]).mean() > 1.5 * 160
    assert (motion.s_m[-1] - motion.s_m[-301] > 2).mean() > 5 / 6
    assert (motion.walked_m[-1] - motion.walked_m[0] > 5).all()


def test_walkers_cross_only_when_no_vehicle_is_on_their_zebra(day: Day) -> None:
    """Whoever is on the road (z = 0) has no vehicle within 1 m in front of or behind it."""
    traces = [actor.trace for actor in day.actors[day.parked :]]
    walkers = [trace for trace in traces if "walker" in trace.name]
    vehicles = [trace for trace in traces if trace.kind not in ("pedestrian", "bicycle")]
    times = np.arange(0.0, day.times_s[-1], STEP_S)
    on_road = np.stack([trace.at(times).positions_m[:, 2] == 0 for trace in walkers], axis=1)
    feet, wheels = _poses(walkers, times), _poses(vehicles, times)
    reach = np.array([trace.size_m[0] / 2 for trace in vehicles])
    apart = np.linalg.norm(feet[:, :, None, :2] - wheels[:, None, :, :2], axis=-1)
    assert on_road.any(axis=0).sum() > len(walkers) / 2
    assert (apart[on_road] > np.minimum(reach, 1.0)).all()
    heights = np.concatenate([trace.positions_m[:, 2] for trace in walkers])
    assert set(np.round(heights, 3).tolist()) == {0.0, KERB_M}


def test_walkers_step_on_only_while_the_traffic_across_has_red() -> None:
    """At junctions with lights: the arm's axis shows red when a walker steps onto the road and until it has left it."""
    config = TownConfig(seed=5, rsus=3)
    people = populate(plan_town(config), config, 0, 0, 2, 120.0)
    sizes = np.array([look[1][:2] for look in people.walker_looks], float).reshape(-1, 2)
    motion, checked = simulate(people.drivers, people.walkers, sizes, 120.0), 0
    for walker, s in zip(people.walkers, motion.walked_m.T, strict=True):
        side, u = np.divmod(s, 2 * walker.radius_m)
        for step in np.flatnonzero(np.abs(u - walker.radius_m) < HALF_ROAD_M):
            arm = walker.arm(int(side[step]) % 4)
            if has_signals(walker.node) and arm in walker.arms:
                assert green(walker.node, arm % 2, step * STEP_S) == Light.RED
                checked += 1
    assert checked > 200


def test_a_cyclist_keeps_its_distance_to_one_who_stands() -> None:
    road = path_through(np.stack([np.linspace(0, 100, 201), np.zeros(201)], axis=1))
    stands, rides = (Driver(road, s, v, (1.8, 0.6), cycles=True) for s, v in ((99.0, 0.0), (2.0, 5.0)))
    s = simulate([stands, rides], [], np.zeros((0, 2)), 60.0).s_m
    assert (s[:, 0] - s[:, 1] - 1.8).min() > 1.0


def test_the_indicator_shows_three_seconds_before_a_turn_until_its_end() -> None:
    layout = plan_town(HAMLET)
    driver = Driver(lane_path(layout, [(0, 0), (1, 0), (1, 1), (2, 1)], CAR_OFFSET_M), 6.0, 8.0, (4.0, 1.8))
    s = simulate([driver], [], np.zeros((0, 2)), 60.0, signals=False).s_m[:, 0]
    shown, (left, right, _) = indicator(driver, s), crossings(driver.path)
    assert (left.turn, right.turn) == (1, -1)
    for way, value in ((left, 1), (right, -1)):
        begins, ends = np.searchsorted(s + 2.0, way.enter_m), np.searchsorted(s, way.leave_m)
        assert (shown[begins - 15 : ends] == value).all()  # 15 steps are 3 s
        assert shown[begins - 16] != value
        assert shown[ends] != value


def test_what_happens_depends_neither_on_frames_nor_on_who_is_asked_for() -> None:
    """Region 0 of nine, alone and among all, for 4 and for 9 frames."""
    config = TownConfig(rsus=9, vehicles=1, moving_per_region=5, cyclists_per_region=4)
    layout = plan_town(config)
    few, many = plan_day(layout, config, 0, 4), plan_day(layout, replace(config, vehicles=18), 0, 9)
    theirs = {actor.track_id: actor for actor in many.actors}
    assert len({actor.track_id for actor in many.actors}) == len(many.actors)
    assert len(few.actors) < len(many.actors)
    for actor in few.actors:
        other = theirs[actor.track_id]
        np.testing.assert_array_equal(actor.track, other.track[: len(actor.track)])
        np.testing.assert_array_equal(actor.colours, other.colours)
        count = len(actor.trace) - 1 if len(actor.trace) > 1 else 1
        np.testing.assert_array_equal(actor.trace.indicator[:count], other.trace.indicator[:count])
        np.testing.assert_array_equal(actor.trace.speed_mps[:count], other.trace.speed_mps[:count])
    assert few.actors[few.sensing[0]].track_id == many.actors[many.sensing[0]].track_id


def test_sensing_vehicles_are_dealt_to_the_regions_in_turn() -> None:
    config = replace(HAMLET, vehicles=4)
    layout = plan_town(config)
    day, second = plan_day(layout, config, 0, 2), plan_day(layout, config, 0, 2, region=1)
    theirs = [second.actors[i].track_id for i in second.sensing]
    assert theirs == [day.actors[day.sensing[k]].track_id for k in (1, 3)]
    assert [layout.region_at(*day.actors[i].track[0, :2]) for i in day.sensing] == [0, 1, 0, 1]
    assert [actor.trace.name for actor in day.actors] == [trace.name for trace in day.traces()]


def test_a_city_plans_one_vehicles_day_at_the_cost_of_its_surroundings() -> None:
    layout = plan_town(CITY)
    assert (len(layout.xs_m), len(layout.ys_m)) == (24, 24)
    assert regions_near(layout, {0}, 120.0) == [0, 1, 8, 9]
    day = plan_day(layout, CITY, 0, 48)
    assert len(day.sensing) == 1
    far = [actor for actor in day.actors if layout.region_at(*actor.track[0, :2]) not in (0, 1, 8, 9)]
    assert len(far) < 0.1 * len(day.actors)  # nobody is planned for the other 60 regions; some drive out of these four
    tracemalloc.start()
    plan_day(layout, replace(CITY, warmup_s=0.4), 0, 1)  # tracing is slow
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_the_tour_of_a_city_meets_six_regions_on_streets() -> None:
    layout = plan_town(CITY)
    tour = grand_tour(layout)
    assert len(toured(layout)) == 6
    assert {layout.region_at(*layout.at(node)) for node in tour} == set(toured(layout))
    assert all(b in neighbours(layout, a) for a, b in pairwise(tour))


def test_the_holdout_meets_traffic_and_collides_with_nobody(tour: Day) -> None:
    moving = [actor.trace for actor in tour.actors[tour.parked :]]
    assert _collisions(moving, np.arange(0.0, tour.times_s[-1], 1.0)) == set()
    way = moving[0].positions_m[:, :2]
    others = [trace.at(moving[0].times_s).positions_m[:, :2] for trace in moving[1:] if trace.kind != "pedestrian"]
    assert min(np.linalg.norm(other - way, axis=1).min() for other in others) < 6


def test_further_days_differ_unless_the_same_routes_are_asked_for() -> None:
    layout = plan_town(HAMLET)
    same, other = replace(HAMLET, same_routes=True), HAMLET
    for config, equal in ((same, True), (other, False)):
        people = [populate(layout, config, day, 0, 2, 60.0) for day in (0, 1)]
        assert (people[0].routes[:2] == people[1].routes[:2]) is equal
        assert people[0].routes[2:] != people[1].routes[2:]


def test_a_stroll_goes_round_its_four_corners() -> None:
    """A rectangle of 10 x 2 m is 24 m round: after 5, 11 and 23 m."""
    stroll = Stroll(np.array([[0.0, 0], [10, 0], [10, 2], [0, 2]]), 1.0)
    expected = [[5, 0, 0], [10, 1, np.pi / 2], [0, 1, -np.pi / 2]]
    np.testing.assert_allclose(stroll.at(np.array([5.0, 11.0, 23.0])), np.array(expected), atol=1e-9)


def test_walkers_wait_on_the_pavement(day: Day) -> None:
    """Whoever stands at a junction stands off the road: at least the road's half width from one axis and the other."""
    layout = plan_town(HAMLET)
    for trace in (actor.trace for actor in day.actors if "walker" in actor.trace.name):
        still = trace.speed_mps == 0
        x, y = trace.positions_m[still, :2].T
        for value, axes in ((x, layout.xs_m), (y, layout.ys_m)):
            assert (np.abs(value[:, None] - axes[None]).min(axis=1, initial=np.inf) > HALF_ROAD_M - 0.01).all()


def test_vehicles_wait_behind_the_stop_line() -> None:
    """Two paths cross at a junction without lights: both do not stand in it, and who waits is behind its line."""
    layout = plan_town(HAMLET)
    routes = [[(0, 0), (1, 0), (2, 0)], [(1, 1), (1, 0), (2, 0)]]
    paths = [lane_path(layout, route, CAR_OFFSET_M) for route in routes]
    s = simulate([Driver(path, 8.0, 8.0, (4.0, 1.8)) for path in paths], [], np.zeros((0, 2)), 20.0, signals=False).s_m
    inside = [
        (s[:, i] + 2.0 > path.junctions[0][0]) & (s[:, i] - 2.0 < path.junctions[0][1]) for i, path in enumerate(paths)
    ]
    assert inside[0].any()
    assert inside[1].any()
    assert not (inside[0] & inside[1]).any()
    assert JUNCTION_M > HALF_ROAD_M


def test_an_unknown_driver_is_refused() -> None:
    config = replace(HAMLET, driver="carla")
    with pytest.raises(DataError, match=r"TownConfig.driver is 'carla'.*kinematic, sumo"):
        plan_day(plan_town(config), config, 0, 2)


@pytest.mark.slow
def test_the_holdout_starts_although_somebody_else_would_start_there() -> None:
    """In the village of seed 9 a driver of region 0 would start inside the vehicle of the holdout."""
    config = TownConfig(seed=9, holdout_frames=4)
    day = plan_holdout(plan_town(config), config)
    assert np.ptp(day.actors[day.sensing[0]].track[:, 0]) > 300
