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
        typical_norm: median length of the updates that each RSU accepted last.
        clock: simulated time.
        traffic: payload bytes so far.
        losses: by vehicle and cause.
        accepted: updates that entered an aggregate so far.
    """

    arrays: Arrays
    round: int = 0
    optimizer: Arrays = field(default_factory=dict)
    rsu_arrays: dict[str, Arrays] = field(default_factory=dict)
    rsu_examples: dict[str, int] = field(default_factory=dict)
    typical_norm: dict[str, float] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    traffic: Traffic = field(default_factory=Traffic)
    losses: dict[str, dict[str, int]] = field(default_factory=dict)
    accepted: int = 0

    def model_of(self, rsu: str) -> Arrays:
        """The model that an RSU's vehicles receive."""
        return self.rsu_arrays.get(rsu, self.arrays)

    def counters(self) -> dict[str, object]:
        """All but the arrays, as JSON values."""
        return {
            "round": self.round,
            "rsu_examples": self.rsu_examples,
            "typical_norm": self.typical_norm,
            "clock": dict(self.clock.at_s),
            "traffic": vars(self.traffic),
            "losses": self.losses,
            "accepted": self.accepted,
        }

    @classmethod
    def restore(cls, arrays: Arrays, optimizer: Arrays, counters: Mapping[str, object]) -> "RunState":
        """Inverse of `counters` with the arrays beside it.

        Raises:
            KeyError, TypeError: a counter is missing or of the wrong type.
        """
        if counters.keys() != cls(arrays).counters().keys():
            raise KeyError(f"counters are {sorted(counters)}")
        values = dict(counters)
        clock, traffic = Clock(values.pop("clock")), Traffic(**values.pop("traffic"))  # type: ignore[arg-type]
        return cls(arrays=arrays, optimizer=optimizer, clock=clock, traffic=traffic, **values)  # type: ignore[arg-type]
