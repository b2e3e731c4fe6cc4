"""Settings of the hierarchy, checked where they are made."""

from dataclasses import dataclass, field

from strategies.accumulator import RuleConfig
from strategies.aggregation import RULES
from strategies.arithmetic import share_of
from strategies.gate import GateConfig
from strategies.profile import PROFILES
from strategies.rsu_round import Participation
from strategies.server_optimizer import ServerOptimizerConfig
from strategies.topology import GivenTopology


@dataclass(frozen=True)
class HierarchicalConfig:
    """Settings of the hierarchy.

    Args:
        vehicles: nodes to wait for before the first round.
        rsus: number of RSUs; 1 with `flat` for plain FedAvg.
        flat: no RSU tier: vehicles talk to the cloud, and their bytes are cloud bytes.
        rsu_rounds: RSU rounds per cloud round (kappa_2).
        local_epochs: epochs per round on each vehicle (kappa_1).
        evaluate_every: cloud rounds between evaluations on the vehicles; 0 for never.
        participation, gate, rule, server: see their classes.
        rsu_rule, cloud_rule: keys of `RULES`. A rule that takes more updates to survive `rule.byzantine` liars than its
            tier has is refused.
        given: who belongs where, as the operator says; None for what vehicles claim.
        profile: key of `PROFILES` for simulated time, or "" for the wall clock.
        seed: decides who is chosen and how fast each vehicle is.
        join_timeout_s: how long to wait for vehicles.

    Raises:
        ValueError: a value outside its range, named with its limit.
    """

    vehicles: int = 6
    rsus: int = 2
    flat: bool = False
    rsu_rounds: int = 2
    local_epochs: int = 1
    evaluate_every: int = 1
    participation: Participation = field(default_factory=Participation)
    gate: GateConfig = field(default_factory=GateConfig)
    rsu_rule: str = "mean"
    cloud_rule: str = "mean"
    rule: RuleConfig = field(default_factory=RuleConfig)
    server: ServerOptimizerConfig = field(default_factory=ServerOptimizerConfig)
    profile: str = ""
    seed: int = 0
    join_timeout_s: float = 60.0
    given: GivenTopology | None = None

    def __post_init__(self) -> None:
        for name in ("vehicles", "rsus", "rsu_rounds", "local_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.rsus > self.vehicles:
            raise ValueError(f"{self.rsus} RSUs need at least as many vehicles, got {self.vehicles}")
        if self.given is not None and self.vehicles > len(self.given.rsu_of):
            raise ValueError(f"vehicles = {self.vehicles}, but the topology lists {len(self.given.rsu_of)}")
        if self.given is not None and self.rsus != len(self.given.rsus):
            raise ValueError(f"rsus = {self.rsus}, but the topology has {len(self.given.rsus)}")
        if self.flat and (self.rsus, self.rsu_rounds) != (1, 1):
            raise ValueError(f"a flat run has one group and rsu_rounds = 1, got {self.rsus} and {self.rsu_rounds}")
        for name in (self.rsu_rule, self.cloud_rule):
            if name not in RULES:
                raise ValueError(f"unknown rule {name!r}; known: {', '.join(RULES)}")
        self._check_rules()
        if self.evaluate_every < 0:
            raise ValueError(f"evaluate_every must not be negative, got {self.evaluate_every}")
        if self.profile and self.profile not in PROFILES:
            raise ValueError(f"unknown profile {self.profile!r}; known: {', '.join(PROFILES)}")

    def _check_rules(self) -> None:
        """Refuses rules that cannot keep their promise: robust ones that always see too few updates."""
        members, fraction = self.vehicles // self.rsus, self.participation.fraction
        smallest = share_of(fraction, members)
        where = f"an RSU asks {smallest} of {members} vehicles (fraction {fraction:g}): take fewer RSUs, more vehicles"
        if refusal := refuse_rule("rsu-rule", self.rsu_rule, self.rule, smallest, where):
            raise ValueError(refusal)
        if self.flat and RULES[self.cloud_rule].count_needed(self.rule) > 1:
            raise ValueError(f"cloud-rule = {self.cloud_rule!r}: a flat run merges its vehicles by rsu-rule, set that")
        if refusal := refuse_rule(
            "cloud-rule", self.cloud_rule, self.rule, self.rsus, f"there are {self.rsus} RSUs: take more"
        ):
            raise ValueError(refusal)


def refuse_rule(key: str, name: str, config: RuleConfig, count: int, where: str) -> str:
    """Returns why a rule cannot survive `config.byzantine` liars among `count` updates, or "" if it can.

    Args:
        key: the run-config key of the rule, for the message.
        name: a key of `RULES`.
        config: settings of the rule.
        count: updates that it merges at most.
        where: where that number comes from, and how to have more, for the message.
    """
    needed = RULES[name].count_needed(config)
    if needed <= count:
        return ""
    return (
        f"{key} = {name!r} takes {needed} updates to survive byzantine = {config.byzantine}, and {where}, "
        f"a smaller byzantine, or {key} = 'validated-mean', which works with few"
    )
