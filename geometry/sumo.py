"""Files of the traffic simulator SUMO: floating car data as traces, road networks as lanes. Plain XML or gzipped."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geometry.sumo_xml import Attributes, Place, parse
from geometry.trace import KINDS, Indicator, Trace

# Length, width, height (m) of a kind whose true size the file does not tell.
SIZES_M: Final[dict[str, tuple[float, float, float]]] = {
    "car": (4.5, 1.8, 1.5),
    "van": (5.2, 2.0, 2.2),
    "bus": (12.0, 2.5, 3.2),
    "truck": (8.0, 2.4, 3.2),
    "motorcycle": (2.2, 0.9, 1.5),
    "bicycle": (1.8, 0.6, 1.7),
    "pedestrian": (0.5, 0.6, 1.75),
    "tram": (30.0, 2.4, 3.4),
}

# Parts of a type's name that tell its kind; the first that fits decides, a car is what none fits.
_WORDS: Final = (
    ("motorcycle", ("motorcycle", "moped", "scooter", "motorbike")),
    ("bicycle", ("bicycle", "bike", "cyclist")),
    ("pedestrian", ("ped", "person", "walker")),
    ("bus", ("bus", "coach")),
    ("truck", ("truck", "lorry", "trailer", "semi", "hgv")),
    ("van", ("van", "delivery", "transporter")),
    ("tram", ("tram", "rail", "train")),
)
_SIGNAL_RIGHT: Final = 1
_SIGNAL_LEFT: Final = 2


@dataclass(frozen=True, eq=False)
class Lane:
    """A lane of an edge.

    Args:
        name: SUMO's id.
        speed_mps: the limit.
        width_m: 3.2 where the file names none, as in SUMO.
        shape_m: its middle line in the network's coordinates, [n, 2].
    """

    name: str
    speed_mps: float
    width_m: float
    shape_m: Float[ndarray, "n 2"]


@dataclass(frozen=True, eq=False)
class Edge:
    """A street in one direction between two junctions; lanes run from the right to the left."""

    name: str
    start: str
    end: str
    lanes: tuple[Lane, ...]


@dataclass(frozen=True, eq=False)
class RoadNetwork:
    """A road network; junctions' inner lanes are left out.

    Args:
        edges: by id.
        junctions: position of each junction, [2], by id; inner ones are left out.
        traffic_lights: ids of the signal programs.
        offset_m: what was added to projected coordinates (UTM, as `projection` says) to get the network's, [2].
        projection: proj's description, or "!" without one.
    """

    edges: Mapping[str, Edge]
    junctions: Mapping[str, Float[ndarray, "2"]]
    traffic_lights: tuple[str, ...]
    offset_m: Float[ndarray, "2"]
    projection: str


def kind_of_type(name: str) -> str:
    """The kind (of `geometry.trace.KINDS`) that the name of a vehicle type suggests; "car" if it suggests none."""
    words = name.lower()
    return next((kind for kind, parts in _WORDS if any(part in words for part in parts)), "car")


def read_fcd(
    path: Path,
    kinds: Mapping[str, str] | None = None,
    sizes_m: Mapping[str, tuple[float, float, float]] | None = None,
) -> tuple[Trace, ...]:
    """The traces of an FCD file, in the order in which road users appear.

    SUMO gives the middle of a vehicle's front end and the bearing in degrees clockwise from north; traces have the
    centre and the heading counter-clockwise from east. People are given by their centre. Without `signals` in the
    file no indicator is set.

    Args:
        path: what `--fcd-output` wrote, .xml or .xml.gz.
        kinds: the kind of each vehicle type, where `kind_of_type` would guess wrong.
        sizes_m: length, width, height by vehicle type; others have `SIZES_M` of their kind. The length counts: it is
            what moves the front end to the centre.

    Raises:
        ValueError: the file is no XML, an attribute is missing or not a finite number, times do not increase, or a
            kind is unknown; the message names the file, the line and the attribute.
    """
    reader = _FcdReader(path, dict(kinds or {}), dict(sizes_m or {}))
    parse(path, reader.start, "fcd-export")
    return tuple(trace.finished() for trace in reader.found.values())


def read_network(path: Path) -> RoadNetwork:
    """A network file, .net.xml or .net.xml.gz.

    Raises:
        ValueError: the file is no XML, an attribute is missing or not a finite number, or an edge has no lane; the
            message names the file, the line and the attribute.
    """
    reader = _NetworkReader(path)
    parse(path, reader.start, "net")
    edges = {name: Edge(name, start, end, tuple(lanes)) for name, (start, end, lanes) in reader.edges.items()}
    empty = next((name for name, edge in edges.items() if not edge.lanes), None)
    if empty is not None:
        raise ValueError(f"{path}: edge {empty!r} has no lane; write the network anew with netconvert")
    return RoadNetwork(edges, reader.junctions, tuple(reader.lights), reader.offset_m, reader.projection)


@dataclass
class _Samples:
    """A trace that is being read."""

    name: str
    kind: str
    size_m: tuple[float, float, float]
    rows: list[tuple[float, float, float, float, float, float, int]] = field(default_factory=list)

    def finished(self) -> Trace:
        table = np.array([row[:6] for row in self.rows], float)
        indicator = np.array([row[6] for row in self.rows], np.int8)
        return Trace(self.name, self.kind, self.size_m, table[:, 0], table[:, 1:4], table[:, 4], table[:, 5], indicator)


@dataclass
class _FcdReader:
    path: Path
    kinds: dict[str, str]
    sizes_m: dict[str, tuple[float, float, float]]
    time_s: float | None = None
    found: dict[str, _Samples] = field(default_factory=dict)

    def start(self, tag: str, attributes: Attributes, line: int) -> None:
        place = Place(self.path, tag, attributes, line)
        if tag == "timestep":
            time_s = place.number("time")
            if self.time_s is not None and time_s <= self.time_s:
                raise place.error(f"time is {time_s}, not after {self.time_s}")
            self.time_s = time_s
        elif tag in ("vehicle", "person"):
            self._sample(place)

    def _sample(self, place: Place) -> None:
        if self.time_s is None:
            raise place.error("stands outside a <timestep>")
        samples = self._samples_of(place)
        yaw = math.radians(90.0 - place.number("angle"))
        back_m = 0.0 if place.tag == "person" else samples.size_m[0] / 2
        x, y = place.number("x") - back_m * math.cos(yaw), place.number("y") - back_m * math.sin(yaw)
        z, speed = place.number("z", "0"), abs(place.number("speed"))
        wrapped = math.remainder(yaw, 2 * math.pi)
        samples.rows.append((self.time_s, x, y, z, wrapped, speed, _indicator(int(place.number("signals", "0")))))

    def _samples_of(self, place: Place) -> _Samples:
        name = place.text("id")
        if name not in self.found:
            type_name = place.attributes.get("type", "pedestrian" if place.tag == "person" else "")
            kind = self.kinds.get(type_name, "pedestrian" if place.tag == "person" else kind_of_type(type_name))
            if kind not in KINDS:
                raise place.error(f"type {type_name!r} is mapped to {kind!r}; want one of {', '.join(KINDS)}")
            self.found[name] = _Samples(name, kind, self.sizes_m.get(type_name, SIZES_M[kind]))
        return self.found[name]


def _indicator(signals: int) -> int:
    """SUMO's bit 0 is the right indicator, bit 1 the left one; both together (hazard lights) are no turn."""
    sides = signals & (_SIGNAL_RIGHT | _SIGNAL_LEFT)
    return {_SIGNAL_RIGHT: Indicator.RIGHT, _SIGNAL_LEFT: Indicator.LEFT}.get(sides, Indicator.OFF)


@dataclass
class _NetworkReader:
    path: Path
    edges: dict[str, tuple[str, str, list[Lane]]] = field(default_factory=dict)
    junctions: dict[str, Float[ndarray, "2"]] = field(default_factory=dict)
    lights: dict[str, None] = field(default_factory=dict)
    offset_m: Float[ndarray, "2"] = field(default_factory=lambda: np.zeros(2))
    projection: str = "!"
    inside: str | None = None

    def start(self, tag: str, attributes: Attributes, line: int) -> None:
        place = Place(self.path, tag, attributes, line)
        if tag == "edge":
            real = attributes.get("function", "normal") not in ("internal", "crossing", "walkingarea")
            self.inside = place.text("id") if real else None
            if real:
                self.edges[place.text("id")] = (place.text("from"), place.text("to"), [])
        elif tag == "lane" and self.inside is not None:
            width_m, shape = place.number("width", "3.2"), place.points("shape")
            self.edges[self.inside][2].append(Lane(place.text("id"), place.number("speed"), width_m, shape))
        elif tag == "junction" and attributes.get("type") != "internal":
            self.junctions[place.text("id")] = np.array([place.number("x"), place.number("y")])
        elif tag == "tlLogic":
            self.lights[place.text("id")] = None
        elif tag == "location":
            self.offset_m = place.points("netOffset")[0]
            self.projection = attributes.get("projParameter", "!")
