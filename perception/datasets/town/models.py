"""Meshes of road users: cars, vans and people from the package `sumo-data` (EPL-2.0), the rest from primitives."""

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from perception.datasets.base import DataError
from perception.datasets.town.mesh import Coat, Mesh, Surface, box, merged, mesh, smoothed, tube
from perception.labels import OBJECT_ID, SEGMENT_ID, SEGMENT_OF_OBJECT
from perception.raycast import simplified

VEHICLE, PEDESTRIAN, CYCLIST = (OBJECT_ID[name] for name in ("vehicle", "pedestrian", "cyclist"))
_VEHICLE_SEGMENT, _PEDESTRIAN_SEGMENT, _CYCLIST_SEGMENT = SEGMENT_OF_OBJECT

# Which triangles take the individual's colours is told by their base colour: these stand for "first" and "second".
_FIRST: Final = (-1.0, 0.0, 0.0)
_SECOND: Final = (-2.0, 0.0, 0.0)
_TYRE: Final = (0.02, 0.02, 0.022)
_PLATE: Final = (0.75, 0.75, 0.7)
_PANE: Final = (0.03, 0.04, 0.05)
_SKIN: Final = (0.5, 0.3, 0.21)
_TYRE_TRIANGLES: Final = 144
_PERSON_TRIANGLES: Final = 340
_STRIDES: Final = 6
_CAR_MATERIALS: Final = {
    "carmaterial_citrus": (_FIRST, Surface.PAINT),
    "windows": (_PANE, Surface.GLASS),
    "lights": ((0.85, 0.85, 0.8), Surface.LAMP),
    "lights.red": ((0.6, 0.02, 0.02), Surface.LAMP),
    "lights.orange": ((0.7, 0.25, 0.02), Surface.LAMP),
    "metal": ((0.25, 0.25, 0.26), Surface.PLAIN),
    "tires": (_TYRE, Surface.PLAIN),
}


@dataclass(frozen=True)
class Model:
    """A kind of road user: the mesh's name, its class in `OBJECTS`, and its length, width and height in metres."""

    shape: str
    label: int
    size_m: tuple[float, float, float]


MODELS: Final[dict[str, Model]] = {
    "hatchback": Model("car-normal-citrus", VEHICLE, (3.9, 1.75, 1.5)),
    "saloon": Model("car-normal-citrus", VEHICLE, (4.6, 1.82, 1.42)),
    "suv": Model("car-minibus-citrus", VEHICLE, (4.6, 1.9, 1.75)),
    "van": Model("car-minibus-citrus", VEHICLE, (5.2, 2.0, 2.15)),
    "microcargo": Model("car-microcargo-citrus", VEHICLE, (4.3, 1.8, 1.85)),
    "bus": Model("bus", VEHICLE, (9.6, 2.5, 3.0)),
    "lorry": Model("lorry", VEHICLE, (7.0, 2.35, 3.1)),
    "pedestrian": Model("pedestrian", PEDESTRIAN, (0.9, 0.6, 1.75)),
    "cyclist": Model("cyclist", CYCLIST, (1.75, 0.6, 1.8)),
}


def read_obj(name: str) -> dict[str, tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]]:
    """One of sumo-data's meshes as (vertices, triangles) per material, turned to x forward, y left, z up.

    Raises:
        DataError: the package `sumo-data` is not installed, or has no such mesh.
    """
    try:
        text = (files("sumo_data") / "data" / "3D" / f"{name}.obj").read_text()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise DataError(f"the town needs the mesh {name}.obj of sumo-data ({error}): `pip install sumo-data`") from None
    vertices: list[list[float]] = []
    faces: dict[str, list[tuple[int, int, int]]] = {}
    material = ""
    for keyword, *words in filter(None, map(str.split, text.splitlines())):
        if keyword == "v":
            vertices.append([float(word) for word in words[:3]])
        elif keyword == "usemtl":
            material = words[0]
        elif keyword == "f":
            corners = [int(word.split("/")[0]) - 1 for word in words]
            fan = [(corners[0], b, c) for b, c in pairwise(corners[1:])]
            faces.setdefault(material, []).extend(fan)
    points = np.array(vertices)[:, [2, 0, 1]]
    return {key: (points, np.array(triangles)) for key, triangles in faces.items()}


def _unit(shape: Mesh) -> Mesh:
    """Scaled and moved to fill the unit box: x and y in -0.5..0.5, z in 0..1."""
    low, high = shape.vertices.min(axis=0), shape.vertices.max(axis=0)
    return shape.transformed(np.diag(1 / (high - low)), -low / (high - low) - np.array([0.5, 0.5, 0]))


def _car(name: str) -> Mesh:
    parts = []
    for material, (vertices, faces) in read_obj(name).items():
        rgb, surface = _CAR_MATERIALS[material]
        limit = _TYRE_TRIANGLES if material == "tires" else len(faces)
        parts.append(mesh(*simplified(vertices, faces, limit), Coat(_VEHICLE_SEGMENT, rgb, surface)))
    return merged([_unit(merged([_unit(smoothed(merged(parts), 50.0)), _trim()])), _UNDERSIDE])


def _trim() -> Mesh:
    """Number plates, bumpers and sills, in a car's unit box."""
    rubber, plate = Coat(_VEHICLE_SEGMENT, (0.03, 0.03, 0.032)), Coat(_VEHICLE_SEGMENT, _PLATE)
    bumpers = [box((0.495 * end, 0, 0.17), (0.03, 0.94, 0.1), rubber) for end in (-1, 1)]
    plates = [box((0.502 * end, 0, 0.31), (0.012, 0.3, 0.075), plate) for end in (-1, 1)]
    sills = [box((0, 0.485 * side, 0.13), (0.4, 0.02, 0.06), rubber) for side in (-1, 1)]
    return merged([*bumpers, *plates, *sills])


# The dark ground below a vehicle, where no skylight reaches, in its unit box.
_UNDERSIDE: Final = mesh(
    np.array([[-0.5, -0.5, 6e-4], [0.5, -0.5, 6e-4], [0.5, 0.5, 6e-4], [-0.5, 0.5, 6e-4]]),
    np.array([[0, 1, 2], [0, 2, 3]]),
    Coat(SEGMENT_ID["road"], (0.008, 0.008, 0.008), Surface.SHADE),
)


def _wheels(xs: tuple[float, ...], half_width: float, radius: float) -> list[Mesh]:
    wheels, rubber = [], Coat(_VEHICLE_SEGMENT, _TYRE)
    for x in xs:
        for y in (-half_width, half_width):
            hub = tube((x, y - 0.12, radius), (x, y + 0.12, radius), radius, 10, rubber)
            plate = box((x, y, 0.25 * radius), (1.4 * radius, 0.22, 1.4 * radius), rubber)
            wheels += [hub, plate]
    return wheels


def _bus() -> Mesh:
    paint, glass = Coat(_VEHICLE_SEGMENT, _FIRST, Surface.PAINT), Coat(_VEHICLE_SEGMENT, _PANE, Surface.GLASS)
    dark, stripe = Coat(_VEHICLE_SEGMENT, _TYRE), Coat(_VEHICLE_SEGMENT, _SECOND, Surface.PAINT)
    body = [box((0, 0, 0.4), (9.6, 2.46, 2.6), paint), box((0, 0, 2.98), (6.0, 1.6, 0.2), paint)]
    body += [box((0, 0, 0.28), (9.3, 2.4, 0.14), dark), box((0, 0, 0.85), (9.62, 2.48, 0.22), stripe)]
    panes = [box((-3.9 + 1.45 * i, 0, 1.35), (1.32, 2.5, 1.05), glass) for i in range(6)]
    panes += [box((4.76, 0, 1.1), (0.1, 2.3, 1.45), glass), box((-4.76, 0, 1.55), (0.1, 2.1, 0.95), glass)]
    panes += [box((x, -1.22, 0.45), (1.1, 0.06, 2.0), glass) for x in (0.3, 4.0)]
    signs = [box((4.78, 0, 2.62), (0.08, 1.7, 0.26), Coat(_VEHICLE_SEGMENT, (0.7, 0.4, 0.03), Surface.LAMP))]
    signs += [box((4.9 * side, 0, 0.5), (0.05, 0.5, 0.13), Coat(_VEHICLE_SEGMENT, _PLATE)) for side in (-0.985, 0.985)]
    lamps = [_lamp(4.8, 0.62, (0.85, 0.85, 0.8)), _lamp(-4.8, 0.8, (0.6, 0.02, 0.02))]
    return merged([_unit(merged(body + panes + signs + lamps + _wheels((-2.9, 2.9), 1.12, 0.48))), _UNDERSIDE])


def _lorry() -> Mesh:
    paint, load = Coat(_VEHICLE_SEGMENT, _FIRST, Surface.PAINT), Coat(_VEHICLE_SEGMENT, _SECOND, Surface.PAINT)
    glass, dark = Coat(_VEHICLE_SEGMENT, _PANE, Surface.GLASS), Coat(_VEHICLE_SEGMENT, _TYRE)
    cab = [box((2.6, 0, 0.5), (1.8, 2.2, 1.9), paint), box((3.5, 0, 0.62), (0.06, 1.5, 0.4), dark)]
    cab += [box((3.48, 0, 1.35), (0.08, 2.05, 0.85), glass), box((2.9, 0, 1.45), (0.8, 2.24, 0.7), glass)]
    cab += [box((3.35, side, 1.6), (0.1, 0.18, 0.4), dark) for side in (-1.2, 1.2)]
    body = [box((-0.95, 0, 0.85), (5.1, 2.35, 2.25), load), box((-0.95, 0, 1.6), (2.6, 2.37, 0.8), paint)]
    rails = [box((-3.5, y, 0.85), (0.04, 0.05, 2.25), dark) for y in (-1.14, -0.03, 0.03, 1.14)]
    rails += [box((-3.5, 0, z), (0.04, 2.35, 0.06), dark) for z in (0.85, 1.5, 2.4, 3.03)]
    frame = [box((0, 0, 0.45), (6.6, 1.0, 0.4), dark), box((-3.42, 0, 0.42), (0.12, 2.2, 0.14), dark)]
    plate = [box((-3.5, 0, 0.6), (0.05, 0.5, 0.13), Coat(_VEHICLE_SEGMENT, _PLATE))]
    lamps = [_lamp(3.52, 0.66, (0.85, 0.85, 0.8)), _lamp(-3.5, 0.62, (0.6, 0.02, 0.02))]
    parts = merged([*cab, *body, *rails, *frame, *plate, *lamps, *_wheels((-2.2, 2.3), 1.05, 0.46)])
    return merged([_unit(parts), _UNDERSIDE])


def _lamp(x: float, z: float, rgb: tuple[float, float, float]) -> Mesh:
    coat = Coat(_VEHICLE_SEGMENT, rgb, Surface.LAMP)
    return merged([box((x, y, z), (0.06, 0.3, 0.22), coat) for y in (-0.9, 0.9)])


def _person(segment: int) -> Mesh:
    """A standing person; trousers take the first colour and the shirt the second, by the height of a triangle."""
    vertices, faces = next(iter(read_obj("humanResting").values()))
    body = _unit(mesh(*simplified(vertices, faces, _PERSON_TRIANGLES), Coat(segment, _SKIN)))
    middle = body.vertices[body.faces].mean(axis=1)
    z, reach = middle[:, 2], np.abs(middle[:, 1])
    rgb = body.rgb.copy()
    rgb[z < 0.53] = _FIRST
    rgb[(z >= 0.53) & (z < 0.83)] = _SECOND
    rgb[(z > 0.5) & (z < 0.62) & (reach > 0.36)] = _SKIN
    rgb[z < 0.045] = (0.03, 0.025, 0.02)
    rgb[(z > 0.95) | ((z > 0.9) & (middle[:, 0] < -0.05))] = (0.05, 0.03, 0.02)
    return replace(body, rgb=rgb)


def _stride(body: Mesh, swing: float) -> Mesh:
    """A walking person in metres: the legs swing about the hip, one forward and one back, the arms against them."""
    points = body.vertices * np.array([0.34, 0.56, 1.0])
    left = np.tanh(points[:, 1] / 0.03)
    legs = np.clip(0.52 - points[:, 2], 0, None)
    arms = np.clip(0.8 - points[:, 2], 0, 0.35) * (np.abs(points[:, 1]) > 0.17)
    points[:, 0] += swing * left * np.where(points[:, 2] < 0.52, legs, -0.8 * arms)
    return replace(body, vertices=(points / np.array([0.9, 0.6, 1.0])).astype(np.float32))


def _cyclist() -> Mesh:
    """A bicycle of tubes with a bent person on it."""
    metal = Coat(_CYCLIST_SEGMENT, _FIRST)
    rubber = Coat(_CYCLIST_SEGMENT, _TYRE)
    parts = []
    for x in (-0.52, 0.52):
        angle = 2 * np.pi * np.arange(13) / 12
        rim = np.stack([x + 0.34 * np.cos(angle), np.zeros(13), 0.35 + 0.34 * np.sin(angle)], axis=1)
        parts += [tube(a, b, 0.028, 4, rubber) for a, b in pairwise(rim)]
    hub, crank, seat, head = (-0.52, 0, 0.35), (-0.02, 0, 0.32), (-0.2, 0, 0.9), (0.38, 0, 0.88)
    for a, b in [(hub, crank), (crank, seat), (seat, head), (crank, head), (hub, seat), (head, (0.52, 0, 0.35))]:
        parts.append(tube(a, b, 0.025, 5, metal))
    parts.append(tube((0.36, -0.27, 1.02), (0.36, 0.27, 1.02), 0.02, 5, rubber))
    rider = _person(_CYCLIST_SEGMENT)
    points = rider.vertices * np.array([0.34, 0.5, 1.75])
    above = points[:, 2] - 0.92
    lean = np.clip(above, 0, None)
    side = np.sign(points[:, 1])
    legs = np.clip(-above, 0, None)
    x = points[:, 0] - 0.2 + 0.5 * lean + np.where(legs > 0, 0.55 * np.minimum(legs, 0.45) - 0.15 * legs, 0)
    arms = (np.abs(points[:, 1]) > 0.16) & (above > 0) & (above < 0.55)
    x += np.where(arms, 0.55 * np.clip(0.55 - above, 0, 0.5), 0)
    z = np.where(legs > 0, 0.95 - legs * (0.72 + 0.12 * side), 0.95 + 0.86 * lean)
    moved = np.stack([x, 0.85 * points[:, 1], z], axis=1)
    parts.append(replace(rider, vertices=moved.astype(np.float32)))
    return _unit(merged(parts))


@cache
def _shape(name: str, pose: int) -> Mesh:
    if name == "bus":
        return _bus()
    if name == "lorry":
        return _lorry()
    if name == "cyclist":
        return _cyclist()
    if name == "pedestrian":
        return _stride(_person(_PEDESTRIAN_SEGMENT), 0.6 * np.sin(2 * np.pi * pose / _STRIDES))
    return _car(name)


def place(
    model: Model, size_m: Float[ndarray, "3"], colours: Float[ndarray, "2 3"], pose_m: Float[ndarray, "4"], walk: float
) -> Mesh:
    """A road user in the world.

    Args:
        model: what it is.
        size_m: length, width, height.
        colours: its two colours (paint and load, or trousers and shirt), linear RGB [2, 3].
        pose_m: x, y, z of the point on the ground below its centre, and yaw (rad).
        walk: phase of the stride in turns.
    """
    shape, turn = _posed(model, size_m, float(pose_m[3]), walk)
    rgb = np.where(shape.rgb[:, :1] == -1, colours[0], np.where(shape.rgb[:, :1] == -2, colours[1], shape.rgb))
    return replace(shape.transformed(turn, pose_m[:3]), rgb=rgb.astype(np.float32))


def outline(
    model: Model, size_m: Float[ndarray, "3"], pose_m: Float[ndarray, "4"], walk: float, count: int
) -> Float[ndarray, "p 3"]:
    """About `count` vertices spread over a road user's mesh, pulled in by 3 % so that rays hit them."""
    shape, turn = _posed(model, size_m, float(pose_m[3]), walk)
    chosen = shape.vertices[:: max(len(shape.vertices) // count, 1)].astype(np.float64)
    chosen += 0.03 * (shape.vertices.mean(axis=0) - chosen)
    return chosen @ turn.T + pose_m[:3]


def _posed(
    model: Model, size_m: Float[ndarray, "3"], yaw_rad: float, walk: float
) -> tuple[Mesh, Float[ndarray, "3 3"]]:
    """The mesh in its unit box, and what scales and turns it."""
    shape = _shape(model.shape, int(walk * _STRIDES) % _STRIDES if model.label == PEDESTRIAN else 0)
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return shape, np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) * size_m
