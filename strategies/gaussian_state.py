"""What a reconstruction must remember from one round to the next: all that a resume needs, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from clients.gaussian_messages import FIELDS, pack_gaussians, pack_sim3, unpack_gaussians, unpack_sim3
from clients.messages import Arrays
from geometry import Sim3
from recon.gaussians import Gaussians
from strategies.report import Traffic


@dataclass
class FusionState:
    """Running state of `GaussianFusion`.

    Args:
        round: rounds done: 1 after the fits, then those of alignment, then those of refinement.
        parts: what vehicles sent, in their own worlds.
        world_from: vehicles' worlds, once they are aligned.
        scene: by RSU, once it is merged.
        base: regions that an earlier run left, which this one adds to.
        free: which Gaussians may change, by RSU; empty for all.
        teacher: see `FusionConfig.momentum`.
        traffic: payload bytes so far.
        losses: by vehicle and cause.
        accepted: updates that counted so far.
    """

    round: int = 0
    parts: dict[str, Gaussians] = field(default_factory=dict)
    world_from: dict[str, Sim3] = field(default_factory=dict)
    scene: dict[str, Gaussians] = field(default_factory=dict)
    base: dict[str, Gaussians] = field(default_factory=dict)
    free: dict[str, Bool[Tensor, "n"]] = field(default_factory=dict)
    teacher: dict[str, Gaussians] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    losses: dict[str, dict[str, int]] = field(default_factory=dict)
    accepted: int = 0

    def arrays(self) -> Arrays:
        """All tensors by name."""
        out: Arrays = {f"world/{name}": pack_sim3(sim3) for name, sim3 in self.world_from.items()}
        for kind in ("parts", "scene", "base", "teacher"):
            for name, gaussians in getattr(self, kind).items():
                out |= pack_gaussians(gaussians, f"{kind}:{name}")
        return out | {f"free/{name}": mask.numpy() for name, mask in self.free.items()}

    def counters(self) -> dict[str, Any]:
        """The rest, as JSON values."""
        traffic = vars(self.traffic)
        return {"round": self.round, "traffic": traffic, "losses": self.losses, "accepted": self.accepted}

    @classmethod
    def restore(cls, arrays: Arrays, counters: Mapping[str, Any]) -> "FusionState":
        """Inverse of `arrays` and `counters`.

        Raises:
            KeyError, TypeError, MessageError: something is missing or damaged.
        """
        sets: dict[str, dict[str, Gaussians]] = {"parts": {}, "scene": {}, "base": {}, "teacher": {}}
        for group in sorted({name.rpartition("/")[0] for name in arrays if name.endswith(f"/{FIELDS[0]}")}):
            kind, _, name = group.partition(":")
            sets[kind][name] = unpack_gaussians(arrays, group)
        return cls(
            round=counters["round"],
            world_from={n.removeprefix("world/"): unpack_sim3(v) for n, v in arrays.items() if n.startswith("world/")},
            free={
                n.removeprefix("free/"): torch.from_numpy(np.array(v))
                for n, v in arrays.items()
                if n.startswith("free/")
            },
            traffic=Traffic(**counters["traffic"]),
            losses=dict(counters["losses"]),
            accepted=counters["accepted"],
            **sets,
        )
