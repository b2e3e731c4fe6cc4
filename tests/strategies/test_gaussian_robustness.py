"""What one vehicle sends, claims or leaves out costs its own part, and is counted."""

import io
import math
from collections.abc import Callable
from dataclasses import replace

import flwr.app as flower
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message

from clients.gaussian_messages import ALIGN, FIT, REFINE
from clients.gaussian_wire import JOB, pack_sim3
from clients.messages import EvaluateReply, decode_request, encode_evaluate_reply
from geometry import Sim3
from recon.chart import rotation_matrix
from recon.gaussians import Gaussians
from recon.refusal import AcceptanceConfig
from strategies.membership import NotEnoughVehicles
from tests.fakes import EVALUATE, HELLO, TRAIN, failing, silent
from tests.strategies.street import (
    AXIS,
    PLAN,
    Driven,
    only,
    restored,
    with_arrays,
    with_gaussians,
    with_means_times,
    with_metrics,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def job_of(message: Message) -> object:
    return decode_request(message).config[JOB]


def zipped() -> bytes:
    """Two arrays in numpy's .npz format, which `np.load` reads as well."""
    file = io.BytesIO()
    np.savez(file, np.zeros(3), np.zeros(3))
    return file.getvalue()


NPY = flower.Array(np.zeros(3)).data
DAMAGED = {
    "empty": b"",
    "no zip": b"PK\x03\x04garbage",
    "cut": NPY[:-5],
    "of a shape that nothing holds": NPY.replace(b"(3,), }              ", b"(9999999999999999,), }"[:21]),
}


@pytest.mark.parametrize("data", [*DAMAGED.values(), zipped()], ids=[*DAMAGED, "several arrays"])
@pytest.mark.parametrize("job", [FIT, ALIGN, REFINE])
def test_bytes_that_are_no_array_cost_their_sender_alone(data: bytes, job: str) -> None:
    """As other transports hand arrays over."""

    def damaged(message: Message, client: Callable[[Message], Message]) -> list[Message]:
        answer = client(message)
        names = list(answer.content["arrays"])
        array = flower.Array(dtype="float64", shape=(3,), stype="numpy.ndarray", data=data)
        answer.content["arrays"] = ArrayRecord(dict.fromkeys(names, array))
        return [answer]

    driven = Driven(refine_rounds=1)
    driven.grid.behaviour[2, TRAIN] = only(job, damaged)
    driven.run()
    assert driven.state.losses["b"]["malformed"] == 1
    assert len(driven.state.scene) == 2


def test_a_world_that_is_lied_away_costs_its_vehicle_alone() -> None:
    """At the edge of what is plausible, round after round, with one Gaussian at the edge of what is accepted."""

    def blown(gaussians: Gaussians) -> Gaussians:
        far = gaussians.select(torch.arange(len(gaussians)) == 0)
        return Gaussians.concat([gaussians, replace(far, means=torch.full((1, 3), 4990.0))])

    def lie(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        turn = rotation_matrix(torch.tensor(math.radians(14.9) * AXIS)).numpy()
        centre, scale = PLAN["b"].centre_m, math.exp(-0.299)
        place = pack_sim3(Sim3(turn, centre - scale * turn @ centre, scale))
        return {name: np.concatenate([place, [0.5, 0.0, 4.0]]) for name in arrays}

    driven = Driven(align_rounds=3, acceptance=AcceptanceConfig())
    lies, sends = only(ALIGN, with_arrays(lie)), only(FIT, with_gaussians(blown))
    driven.grid.behaviour[2, TRAIN] = lambda message, client: (lies if job_of(message) == ALIGN else sends)(
        message, client
    )
    driven.run()
    assert sorted(driven.state.scene) == ["north", "south"]
    assert driven.state.round == driven.config.num_rounds


@pytest.mark.parametrize("value", [1e200, -1e200])
def test_a_huge_quality_ends_nothing(value: float) -> None:
    driven = Driven(block_weighting=True)
    driven.grid.behaviour[1, TRAIN] = only(REFINE, with_metrics(**{"psnr-db": value}))
    assert driven.run().state.round == driven.config.num_rounds


def test_claims_of_sight_beyond_all_numbers_end_nothing() -> None:
    """Each within what a float holds, and their sum was not; what each would do is done all the same."""
    driven = Driven()
    driven.grid.behaviour |= {(node_id, TRAIN): only(REFINE, with_means_times(1.0, 1e37)) for node_id in (1, 2, 3, 4)}
    driven.run()
    assert driven.state.losses == {}
    assert all(torch.isfinite(part.means).all() for part in driven.state.scene.values())


def test_who_does_not_join_is_counted_where_nobody_makes_up_for_it() -> None:
    driven = Driven(vehicles=4)
    driven.grid.nodes.remove(4)
    assert driven.run(1).state.losses == {"d": {"unavailable": 1}}
    assert driven.state.missing == []


def test_a_dead_node_counts_once_and_under_its_own_name() -> None:
    driven = Driven()
    driven.grid.behaviour[3, TRAIN] = lambda message, _: [
        create_message_error_unavailable_res_message(message.metadata, "node_unavail")  # comes from node 1
    ]
    driven.run(1)
    assert driven.state.losses == {"c": {"unavailable": 1}}
    assert driven.state.accepted == 3


def test_a_quorum_is_one_of_vehicles_that_say_who_they_are() -> None:
    driven = Driven(quorum=0.5)
    driven.grid.behaviour |= {(node_id, HELLO): failing() for node_id in (2, 3, 4)}
    with pytest.raises(NotEnoughVehicles, match=r"1 of 4 planned vehicles are there, want 2: node-2: client-error"):
        driven.run()


def test_when_nobody_judges_all_are_counted() -> None:
    driven = Driven(refine_rounds=0)
    driven.grid.behaviour |= {(node_id, EVALUATE): silent for node_id in driven.grid.nodes}
    report = driven.run().evaluations[-1]
    assert "psnr-db" not in report.metrics
    assert driven.state.losses == {vehicle: {"late": 1} for vehicle in "abcd"}


def test_nobody_judges_by_more_images_than_a_stretch_has() -> None:
    """d says it has a billion images; its stretch has four, as many as it would count for anyway."""
    driven = Driven(refine_rounds=0)
    driven.grid.behaviour[4, EVALUATE] = lambda message, _: [
        encode_evaluate_reply(EvaluateReply(10**9, {"psnr-db": 99.0}), message)
    ]
    report = driven.run().evaluations[-1]
    assert report.metrics["psnr-db"] == pytest.approx((1 * 20 + 2 * 21 + 3 * 22 + 4 * 99) / 10)


def test_a_scene_can_be_judged_outside_of_a_round() -> None:
    """As after an interruption: the nodes are met first, and no round is counted."""
    uninterrupted = Driven().run()
    again = Driven(state=restored(uninterrupted.state))
    again.strategy.judge(again.grid, 1.0)
    assert again.evaluations[0].metrics == uninterrupted.evaluations[-1].metrics
    assert again.state.round == uninterrupted.state.round
