"""The town in SUMO's plain XML: junctions, streets, vehicles."""

from itertools import pairwise
from typing import Final
from xml.sax.saxutils import quoteattr

import numpy as np

from geometry.sumo import RoadNetwork
from perception.datasets.town.driving import Driver
from perception.datasets.town.junctions import ACCELERATION, BRAKING
from perception.datasets.town.layout import Layout, Node
from perception.datasets.town.looks import Look, kind_of
from perception.datasets.town.routes import CAR_OFFSET_M, CYCLE_OFFSET_M
from perception.datasets.town.signals import has_signals

_CLASSES: Final = {"car": "passenger", "van": "delivery", "bus": "bus", "truck": "truck", "bicycle": "bicycle"}
_SPEED_MPS: Final = 13.9
_RADIUS_M: Final = 6.0


def junction_name(node: Node) -> str:
    """SUMO's id of a junction, such as 3x4."""
    return f"{node[0]}x{node[1]}"


def node_of(name: str) -> Node:
    """The junction that an id names."""
    i, j = name.split("x")
    return int(i), int(j)


def street_name(a: Node, b: Node) -> str:
    """SUMO's id of a street in one direction, such as 3x4-3x5."""
    return f"{junction_name(a)}-{junction_name(b)}"


def document(root: str, lines: list[str]) -> str:
    """A whole file."""
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', f"<{root}>", *lines, f"</{root}>"])


def _element(tag: str, body: str = "", **attributes: object) -> str:
    words = " ".join(f"{name}={quoteattr(str(value))}" for name, value in attributes.items())
    return f"<{tag} {words}>{body}</{tag}>"


def node_element(layout: Layout, node: Node) -> str:
    """A junction: traffic lights, or whoever came first goes first."""
    (x, y), kind = layout.at(node), "traffic_light" if has_signals(node) else "allway_stop"
    return _element("node", id=junction_name(node), x=repr(float(x)), y=repr(float(y)), type=kind, radius=_RADIUS_M)


def edge_element(a: Node, b: Node) -> str:
    """A street in one direction: a lane for bicycles right of one for all, centred where the town's lanes are."""
    wide, narrow = 2 * CAR_OFFSET_M, 2 * (CYCLE_OFFSET_M - 2 * CAR_OFFSET_M)
    lanes = _element("lane", index=0, allow="bicycle", width=f"{narrow:.3f}")
    lanes += _element("lane", index=1, disallow="pedestrian", width=f"{wide:.3f}")
    names = {"id": street_name(a, b), "from": junction_name(a), "to": junction_name(b)}
    return _element("edge", lanes, **names, numLanes=2, speed=_SPEED_MPS, spreadType="right")


def vehicle_elements(network: RoadNetwork, name: str, driver: Driver, route: list[Node], look: Look) -> tuple[str, str]:
    """A type of its own, and the vehicle with its route."""
    length, width, height = (f"{float(value):.3f}" for value in look[1])
    streets = " ".join(street_name(a, b) for a, b in pairwise(route))
    kind = _element(
        "vType",
        id=name,
        vClass=_CLASSES[kind_of(look[0])],
        length=length,
        width=width,
        height=height,
        accel=ACCELERATION,
        decel=BRAKING,
        maxSpeed=f"{driver.cruise_mps:.3f}",
        sigma=0,
        speedDev=0,
        minGap=2,
    )
    lane = 0 if driver.cycles else 1
    begin = network.edges[street_name(route[0], route[1])].lanes[lane].shape_m[0]
    x, y, yaw = driver.path.at(np.array([driver.start_m]))[0]
    front_m = (x - begin[0]) * np.cos(yaw) + (y - begin[1]) * np.sin(yaw) + driver.size_m[0] / 2
    body = _element("route", edges=streets)
    depart = {"depart": 0, "departLane": lane, "departPos": f"{front_m:.3f}", "insertionChecks": "none"}
    return kind, _element("vehicle", body, id=name, type=name, **depart)


def axis_of(comes: str, goes: str) -> tuple[int, bool]:
    """Axis, and whether it turns left, of a way from one street to another."""
    (ax, ay), (bx, by) = (_heading(*(node_of(name) for name in street.split("-"))) for street in (comes, goes))
    return int(ax == 0), ax * by - ay * bx > 0


def _heading(start: Node, end: Node) -> tuple[int, int]:
    return end[0] - start[0], end[1] - start[1]
