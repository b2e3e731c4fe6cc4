"""How road users look: which model, how large, in which colours."""

from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.town.models import MODELS, Model

# Lanes and junctions have room for a bus beside a cyclist beside a parked car, if none is larger than this.
LONGEST_M: Final = 9.4
WIDEST_M: Final = 2.4
WIDEST_CYCLE_M: Final = 0.6

# Model, length width height in metres, and two colours (linear RGB).
Look = tuple[Model, Float[ndarray, "3"], Float[ndarray, "2 3"]]

_CAR_KINDS: Final = ("hatchback", "saloon", "suv", "van", "microcargo", "bus", "lorry")
MOVING: Final = (0.27, 0.27, 0.15, 0.09, 0.08, 0.06, 0.08)
PARKED: Final = (0.35, 0.3, 0.17, 0.09, 0.09, 0.0, 0.0)
SENSING: Final = (0.4, 0.4, 0.2, 0.0, 0.0, 0.0, 0.0)
_PAINTS: Final = np.array(
    [[0.55, 0.03, 0.03], [0.04, 0.1, 0.4], [0.7, 0.7, 0.7], [0.03, 0.03, 0.035], [0.3, 0.31, 0.33], [0.62, 0.45, 0.04],
     [0.04, 0.24, 0.12], [0.12, 0.3, 0.5], [0.5, 0.18, 0.03], [0.4, 0.36, 0.28], [0.16, 0.03, 0.08], [0.75, 0.74, 0.7]]
)  # fmt: skip
_CLOTHES: Final = np.array(
    [[0.03, 0.04, 0.1], [0.02, 0.02, 0.02], [0.25, 0.2, 0.12], [0.5, 0.05, 0.06], [0.65, 0.62, 0.58], [0.1, 0.25, 0.5],
     [0.6, 0.4, 0.05], [0.08, 0.3, 0.14], [0.4, 0.12, 0.35], [0.2, 0.2, 0.22], [0.6, 0.25, 0.08]]
)  # fmt: skip

# The kind (of `geometry.trace.KINDS`) of each model, by its name in `MODELS`.
KIND_OF_MODEL: Final = {
    "hatchback": "car",
    "saloon": "car",
    "suv": "car",
    "van": "van",
    "microcargo": "van",
    "bus": "bus",
    "lorry": "truck",
    "pedestrian": "pedestrian",
    "cyclist": "bicycle",
}


def kind_of(model: Model) -> str:
    """The kind of road user that a model shows, one of `geometry.trace.KINDS`."""
    return next((KIND_OF_MODEL[name] for name, known in MODELS.items() if known == model), "car")


def vehicle_look(shares: tuple[float, ...], rng: np.random.Generator) -> Look:
    """A vehicle's model, size and colours; `shares` are the probabilities of the kinds: MOVING, PARKED or SENSING."""
    model = MODELS[_CAR_KINDS[rng.choice(len(_CAR_KINDS), p=shares)]]
    paint = np.clip(_PAINTS[rng.integers(len(_PAINTS))] * rng.uniform(0.8, 1.2), 0.02, 0.8)
    load = np.full(3, rng.uniform(0.35, 0.75))
    size = np.array(model.size_m) * rng.uniform(0.95, 1.06, 3)
    return model, np.minimum(size, [LONGEST_M, WIDEST_M, np.inf]), np.stack([paint, load])


def person_look(kind: str, rng: np.random.Generator) -> Look:
    """A pedestrian's or cyclist's model, size and clothes."""
    model = MODELS[kind]
    scale = np.array([rng.uniform(0.95, 1.1), rng.uniform(0.95, 1.15), rng.uniform(0.9, 1.06)])
    size = np.array(model.size_m) * scale
    if kind == "cyclist":
        size[1] = min(size[1], WIDEST_CYCLE_M)
    return model, size, _CLOTHES[rng.integers(len(_CLOTHES), size=2)]
