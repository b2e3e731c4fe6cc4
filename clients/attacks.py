"""What a lying vehicle may send instead of its model: attacks of the literature, to measure rules of aggregation by.

Each is a function of the model that was sent out, the model that the vehicle honestly trained, and the models of honest
vehicles, which the strongest attackers are granted to know. Tensors of whole numbers are left as they were trained.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy import ndarray

from clients.messages import Arrays

Attack = Callable[[Arrays, Arrays, Sequence[Arrays]], Arrays]


def flip_sign(reference: Arrays, own: Arrays, peers: Sequence[Arrays], scale: float = 1.0) -> Arrays:
    """Sends -scale times its own update."""
    return _per_tensor(own, lambda name: reference[name] - scale * (own[name] - reference[name]))


def scale_up(reference: Arrays, own: Arrays, peers: Sequence[Arrays], scale: float = 9.0) -> Arrays:
    """Sends its own update times `scale` (model replacement, Bagdasaryan et al. 2020, section 4.2)."""
    return flip_sign(reference, own, peers, -scale)


def free_ride(reference: Arrays, own: Arrays, peers: Sequence[Arrays]) -> Arrays:
    """Sends the model back as it came (a free rider, Lin et al. 2019, "Free-riders in Federated Learning")."""
    return dict(reference)


def little_is_enough(reference: Arrays, own: Arrays, peers: Sequence[Arrays], tau: float = 1.5) -> Arrays:
    """Sends mean + tau * deviation of honest models, element by element (ALIE, Baruch et al. 2019, algorithm 3)."""

    def shift(name: str) -> ndarray:
        stacked = np.stack([peer[name] for peer in peers])
        return stacked.mean(axis=0) + tau * stacked.std(axis=0, ddof=1 if len(peers) > 1 else 0)

    return _per_tensor(own, shift)


def manipulate_inner_product(reference: Arrays, own: Arrays, peers: Sequence[Arrays], tau: float = 2.0) -> Arrays:
    """Sends -tau times the mean of honest updates (IPM, Xie et al. 2020, "Fall of Empires", section 3)."""

    def oppose(name: str) -> ndarray:
        return reference[name] - tau * (np.stack([peer[name] for peer in peers]).mean(axis=0) - reference[name])

    return _per_tensor(own, oppose)


ATTACKS: Final[Mapping[str, Attack]] = {
    "sign-flip": flip_sign,
    "sign-flip-4": partial(flip_sign, scale=4.0),
    "scaling": scale_up,
    "free-rider": free_ride,
    "alie": little_is_enough,
    "alie-minus": partial(little_is_enough, tau=-1.5),
    "ipm": manipulate_inner_product,
    "ipm-weak": partial(manipulate_inner_product, tau=0.5),
}


def _per_tensor(own: Arrays, craft: Callable[[str], ndarray]) -> Arrays:
    return {
        name: np.asarray(craft(name), values.dtype) if values.dtype.kind == "f" else values
        for name, values in own.items()
    }
