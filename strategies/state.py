"""What a run must remember from one round to the next: everything that a resume needs, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from strategies.arithmetic import Arrays
from strategies.profile import Clock
from strategies.report import Traffic


@dataclass
class RunState:
    """Running state of a hierarchical strategy.

    Right after a cloud round every RSU holds the global model, so a checkpoint taken there needs no RSU models.

    Args:
        arrays: the global model.
        round: RSU rounds done.
        optimizer: state of the server optimizer.
        rsu_arrays: each RSU's model; missing means the global one.
        rsu_examples: examples merged into each RSU's model since the last cloud round.
        recent_norms: median length of the updates that came to each RSU in its last rounds, see `gate.remember_norms`.
        clock: simulated time.
        traffic: payload bytes so far.
        losses: by vehicle and cause.
        accepted: updates that entered an aggregate so far.
        idle_cloud_rounds: cloud rounds so far that did not change the global model.
        last_cloud_moved: whether the last one did.
    """

    arrays: Arrays
    round: int = 0
    optimizer: Arrays = field(default_factory=dict)
    rsu_arrays: dict[str, Arrays] = field(default_factory=dict)
    rsu_examples: dict[str, int] = field(default_factory=dict)
    recent_norms: dict[str, list[float]] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    traffic: Traffic = field(default_factory=Traffic)
    losses: dict[str, dict[str, int]] = field(default_factory=dict)
    accepted: int = 0
    idle_cloud_rounds: int = 0
    last_cloud_moved: bool = False

    def model_of(self, rsu: str) -> Arrays:
        """The model that an RSU's vehicles receive."""
        return self.rsu_arrays.get(rsu, self.arrays)

    def counters(self) -> dict[str, object]:
        """All but the arrays, as JSON values."""
        return {
            "round": self.round,
            "rsu_examples": self.rsu_examples,
            "recent_norms": self.recent_norms,
            "clock": dict(self.clock.at_s),
            "traffic": vars(self.traffic),
            "losses": self.losses,
            "accepted": self.accepted,
            "idle_cloud_rounds": self.idle_cloud_rounds,
            "last_cloud_moved": self.last_cloud_moved,
        }

    @classmethod
    def restore(cls, arrays: Arrays, optimizer: Arrays, counters: Mapping[str, object]) -> "RunState":
        """Inverse of `counters` with the arrays beside it; takes the counters of earlier checkpoints as well.

        Raises:
            KeyError, TypeError: a counter is missing or of the wrong type.
        """
        values = upgrade_counters(counters)
        if values.keys() != cls(arrays).counters().keys():
            raise KeyError(f"counters are {sorted(counters)}")
        clock, traffic = Clock(values.pop("clock")), Traffic(**values.pop("traffic"))  # type: ignore[arg-type]
        return cls(arrays=arrays, optimizer=optimizer, clock=clock, traffic=traffic, **values)  # type: ignore[arg-type]


def upgrade_counters(counters: Mapping[str, object]) -> dict[str, object]:
    """Returns counters as of now: earlier ones hold one typical norm an RSU, and say nothing of idle cloud rounds."""
    values = dict(counters)
    typical = values.get("typical_norm")
    if isinstance(typical, Mapping):
        del values["typical_norm"]
        values["recent_norms"] = {rsu: [norm] for rsu, norm in typical.items()}
        values |= {"idle_cloud_rounds": 0, "last_cloud_moved": True}
    return values
