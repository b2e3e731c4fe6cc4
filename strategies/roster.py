"""Keeps track of who takes part in a hierarchy: vehicles may come and go between rounds."""

from itertools import chain

from flwr.serverapp import Grid

from strategies.arithmetic import share_of
from strategies.hierarchical_config import HierarchicalConfig, refuse_rule
from strategies.membership import Door, HelloSchedule, NotEnoughVehicles, changes, gather_members, greet
from strategies.report import Loss
from strategies.topology import Member, Topology, assign


class Roster:
    """The vehicles of a run, and the RSU that each is under.

    Args:
        config: settings of the hierarchy.
    """

    def __init__(self, config: HierarchicalConfig) -> None:
        self.topology = Topology(())
        self._config, self._hellos = config, HelloSchedule()
        self._door = Door(config.gate.max_examples, config.given)

    @property
    def everyone(self) -> list[Member]:
        """All vehicles, RSU by RSU."""
        return list(chain.from_iterable(self.topology.vehicles(rsu) for rsu in self.topology.rsus))

    def refresh(self, grid: Grid, rounds_done: int) -> list[Loss]:
        """Meets everybody before the first round; later takes out who is gone and lets newcomers in.

        Newcomers join where a cloud period begins.

        Args:
            grid: where the nodes are.
            rounds_done: RSU rounds so far.

        Returns:
            Who could not join, and why.

        Raises:
            NotEnoughVehicles: too few came, or an RSU has too few for its rule.
        """
        period, rest = divmod(rounds_done, self._config.rsu_rounds)
        if not self.topology.rsus:
            return self._meet(grid, period)
        gone, new = changes(self.topology, sorted(grid.get_node_ids()))
        for vehicle in gone:
            self.topology = self.topology.leave(vehicle)
        due = self._hellos.select_due(new, period)
        if rest or not due:
            return []
        members, losses = self._greet(grid, due, period)
        for member in members:
            given = self._config.given
            self.topology = self.topology.join(member, given.rsu_of[member.vehicle] if given else None)
        return losses

    def _meet(self, grid: Grid, period: int) -> list[Loss]:
        config = self._config
        members, losses, asked = gather_members(grid, config.vehicles, config.join_timeout_s, self._door)
        self._hellos.record(asked, [member.node_id for member in members], period)
        if len(members) < config.rsus:
            reasons = "; ".join(f"{loss.vehicle}: {loss.cause} {loss.detail}" for loss in losses[:5])
            raise NotEnoughVehicles(f"{len(members)} vehicles for {config.rsus} RSUs; {reasons}")
        self.topology = assign(members, config.rsus, config.given)
        if len(members) >= config.vehicles:
            self._check_rule()
        return losses

    def _greet(self, grid: Grid, nodes: list[int], period: int) -> tuple[list[Member], list[Loss]]:
        members, losses = greet(grid, nodes, self._config.join_timeout_s, self._door, self.topology.members)
        self._hellos.record(nodes, [member.node_id for member in members], period)
        return members, losses

    def _check_rule(self) -> None:
        """Refuses to start where the division leaves an RSU too few vehicles for its rule, though everybody came."""
        config = self._config
        for rsu in self.topology.rsus:
            asked = share_of(config.participation.fraction, len(self.topology.vehicles(rsu)))
            if refusal := refuse_rule(
                "rsu-rule", config.rsu_rule, config.rule, asked, f"{rsu} asks {asked}: take fewer RSUs, more vehicles"
            ):
                raise NotEnoughVehicles(refusal)
