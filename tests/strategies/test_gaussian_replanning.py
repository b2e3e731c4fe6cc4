"""Vehicles that are not there when a reconstruction begins: others make up for them, also after a resume."""

from collections.abc import Sequence

import numpy as np
import pytest

from clients.gaussian_messages import FIT, REFINE
from clients.gaussian_wire import MISSING, decode_fit
from recon.plan import Plan
from strategies.gaussian_state import FusionState
from strategies.membership import NotEnoughVehicles
from tests.fakes import HELLO, TRAIN, failing, silent
from tests.strategies.street import PLAN, Driven, Street, restored, stretch


def without(missing: Sequence[str]) -> Plan:
    """c covers what d was to, waypoints, views and budget."""
    assert list(missing) == ["d"]
    both = np.concatenate([PLAN["c"].waypoints_m, PLAN["d"].waypoints_m])
    return Plan((stretch("a"), stretch("b"), stretch("c", waypoints_m=both, views=8, max_gaussians=80)))


class Unheard(Driven):
    """d does not say hello, and whoever is asked to plan again writes down for whom."""

    def __init__(self, state: FusionState | None = None, replans: bool = True, **changed: object) -> None:
        super().__init__(state=state, **changed)  # type: ignore[arg-type]
        self.asked: list[list[str]] = []
        self.grid.behaviour[4, HELLO] = silent
        self.strategy._replan = self.replan if replans else None

    def replan(self, missing: Sequence[str]) -> Plan:
        self.asked.append(list(missing))
        return without(missing)


def test_others_make_up_for_who_is_missing() -> None:
    driven = Unheard().run()
    assert driven.asked == [["d"]]
    assert driven.state.missing == ["d"]
    fits = driven.requests(FIT)
    assert sorted(fits) == ["a", "b", "c"]
    asked = decode_fit(fits["c"])
    assert (len(asked.own_m), asked.max_gaussians, asked.steps) == (20, 80, 2 * decode_fit(fits["b"]).steps)
    assert driven.state.round == driven.config.num_rounds
    assert driven.state.scene.keys() == {"north", "south"}


def test_every_message_says_who_is_missing_for_vehicles_drive_by_it() -> None:
    driven = Unheard().run()
    assert all(request.config[MISSING] == "d" for job in (FIT, REFINE) for request in driven.requests(job).values())
    complete = Driven().run()
    assert all(MISSING not in request.config for request in complete.requests(FIT).values())


def test_without_somebody_to_plan_the_stretch_is_nobodys() -> None:
    driven = Unheard(replans=False).run()
    assert driven.state.missing == []
    assert decode_fit(driven.requests(FIT)["c"]).own_m.shape == (10, 2)


def test_a_resumed_run_does_not_plan_again() -> None:
    begun = Unheard().run(1)
    later = Unheard(state=restored(begun.state))
    later.strategy.plan = without(["d"])
    later.run()
    assert later.asked == []
    assert later.state.missing == ["d"]
    assert all(request.config[MISSING] == "d" for request in later.requests(REFINE).values())


def test_who_is_there_on_a_resume_only_is_not_in_the_plan() -> None:
    begun = Unheard().run(1)
    later = Driven(plan=without(["d"]), state=restored(begun.state)).run()
    assert not [m for m in later.grid.received(TRAIN) if m.metadata.dst_node_id == 4]


@pytest.mark.parametrize(("nodes", "quorum", "starts"), [("abc", 0.5, True), ("ab", 0.5, True), ("a", 0.5, False)])
def test_a_run_begins_with_its_quorum_once_the_time_is_up(nodes: str, quorum: float, starts: bool) -> None:
    """Of four vehicles two are half; one alone is too few."""
    driven = Driven(Street(tuple(nodes)), vehicles=4, quorum=quorum)
    if starts:
        assert driven.run().state.scene
    else:
        with pytest.raises(NotEnoughVehicles, match="1 of 4 vehicles connected"):
            driven.run()


def test_a_vehicle_whose_hello_fails_is_missing_too() -> None:
    driven = Unheard()
    driven.grid.behaviour[4, HELLO] = failing(1)
    driven.run()
    assert driven.asked == [["d"]]
