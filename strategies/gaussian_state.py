"""What a reconstruction must remember from one round to the next: all that a resume needs, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float32
from numpy import ndarray
from torch import Tensor

from clients.gaussian_wire import MARKS, pack_sim3, unpack_sim3
from clients.messages import Arrays
from geometry import Sim3
from recon.gaussians import Gaussians
from recon.refusal import FIELDS
from strategies.report import Traffic

BASE: Final = "scene"  # name of what an earlier run left, among those to align


@dataclass
class FusionState:
    """Running state of `GaussianFusion`.

    Args:
        round: rounds done: 1 after the fits, then those of alignment, then those of refinement.
        parts: what vehicles sent, in their own worlds.
        landmarks: that vehicles sent, in their own worlds; those of an earlier run in that of all, by `BASE`.
        world_from: vehicles' worlds, once they are aligned.
        tied: vehicles with landmarks whose place is known: surveyed, or joined by LiDAR, directly or over others, to
            one that is or to what an earlier run left.
        scene: by RSU, once it is merged.
        base: regions that an earlier run left, which this one adds to.
        free: which Gaussians may change, by RSU; empty for all.
        teacher: see `FusionConfig.momentum`.
        traffic: payload bytes so far.
        losses: by vehicle and cause.
        accepted: updates that counted so far.
        missing: vehicles of the plan that were not there when the run began, which others made up for.
    """

    round: int = 0
    parts: dict[str, Gaussians] = field(default_factory=dict)
    landmarks: dict[str, Float32[ndarray, "_ 3"]] = field(default_factory=dict)
    world_from: dict[str, Sim3] = field(default_factory=dict)
    tied: list[str] = field(default_factory=list)
    scene: dict[str, Gaussians] = field(default_factory=dict)
    base: dict[str, Gaussians] = field(default_factory=dict)
    free: dict[str, Bool[Tensor, "n"]] = field(default_factory=dict)
    teacher: dict[str, Gaussians] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    losses: dict[str, dict[str, int]] = field(default_factory=dict)
    accepted: int = 0
    missing: list[str] = field(default_factory=list)

    def arrays(self) -> Arrays:
        """All tensors by name."""
        out: Arrays = {f"world/{name}": pack_sim3(sim3) for name, sim3 in self.world_from.items()}
        for kind in ("parts", "scene", "base", "teacher"):
            for name, gaussians in getattr(self, kind).items():
                out |= {f"{kind}:{name}/{key}": tensor.numpy() for key, tensor in gaussians.tensors().items()}
        out |= {f"{MARKS}/{name}": points for name, points in self.landmarks.items()}
        return out | {f"free/{name}": mask.numpy() for name, mask in self.free.items()}

    def counters(self) -> dict[str, Any]:
        """The rest, as JSON values."""
        traffic = vars(self.traffic)
        kept = {"round": self.round, "traffic": traffic, "losses": self.losses, "accepted": self.accepted}
        return kept | {"tied": self.tied, "missing": self.missing}

    def all_landmarks(self) -> Float32[ndarray, "_ 3"]:
        """Of an earlier run and of vehicles whose place is known, in the world of all: what a later run aligns to."""
        known = [name for name in sorted(self.tied) if name in self.landmarks and name in self.world_from]
        own = [self.world_from[name].apply(self.landmarks[name].astype(np.float64)) for name in known]
        return np.concatenate([self.landmarks.get(BASE, np.zeros((0, 3))), *own]).astype(np.float32)

    def added_to(self) -> "FusionState":
        """Before the first round of a run that adds to this one's scene."""
        marks = self.all_landmarks()
        return FusionState(base=self.scene, landmarks={BASE: marks} if len(marks) else {})

    @classmethod
    def restore(cls, arrays: Arrays, counters: Mapping[str, Any]) -> "FusionState":
        """Inverse of `arrays` and `counters`.

        Raises:
            KeyError, TypeError, ValueError, MessageError: something is missing or damaged.
        """
        sets: dict[str, dict[str, Gaussians]] = {"parts": {}, "scene": {}, "base": {}, "teacher": {}}
        for group in sorted({name.rpartition("/")[0] for name in arrays if name.endswith(f"/{FIELDS[0]}")}):
            kind, _, name = group.partition(":")
            tensors = {key: torch.from_numpy(np.array(arrays[f"{group}/{key}"])) for key in FIELDS}
            sets[kind][name] = Gaussians(**tensors)
        return cls(
            round=counters["round"],
            world_from={n.removeprefix("world/"): unpack_sim3(v) for n, v in arrays.items() if n.startswith("world/")},
            free={
                n.removeprefix("free/"): torch.from_numpy(np.array(v))
                for n, v in arrays.items()
                if n.startswith("free/")
            },
            landmarks={
                n.removeprefix(f"{MARKS}/"): np.array(v) for n, v in arrays.items() if n.startswith(f"{MARKS}/")
            },
            tied=list(counters.get("tied", [])),  # older checkpoints have none of these two
            missing=list(counters.get("missing", [])),
            traffic=Traffic(**counters["traffic"]),
            losses=dict(counters["losses"]),
            accepted=counters["accepted"],
            **sets,
        )
