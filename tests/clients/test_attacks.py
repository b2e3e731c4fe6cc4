"""Attacks, against those of ByzFL and by arithmetic."""

import byzfl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.attacks import (
    ATTACKS,
    flip_sign,
    free_ride,
    little_is_enough,
    manipulate_inner_product,
    scale_up,
)
from clients.messages import Arrays

REFERENCE: Arrays = {"w": np.array([[10.0, 20.0]], np.float32), "steps": np.array(7)}


def moved(by: float) -> Arrays:
    return {"w": REFERENCE["w"] + np.float32(by), "steps": np.array(8)}


def test_attacks_by_arithmetic() -> None:
    own, peers = moved(2.0), [moved(1.0), moved(3.0)]
    assert flip_sign(REFERENCE, own, peers)["w"].tolist() == [[8.0, 18.0]]
    assert flip_sign(REFERENCE, own, peers, scale=4.0)["w"].tolist() == [[2.0, 12.0]]
    assert scale_up(REFERENCE, own, peers, scale=9.0)["w"].tolist() == [[28.0, 38.0]]
    assert free_ride(REFERENCE, own, peers)["w"].tolist() == [[10.0, 20.0]]
    assert manipulate_inner_product(REFERENCE, own, peers, tau=0.5)["w"].tolist() == [[9.0, 19.0]]
    # Mean 12 and 22, deviation of 11 and 13 is the square root of 2.
    np.testing.assert_allclose(little_is_enough(REFERENCE, own, peers, tau=1.5)["w"], [[14.12132, 24.12132]], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(2, 6), st.floats(0.1, 5.0))
def test_alie_and_ipm_are_byzfls(seed: int, count: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(20).astype(np.float32)
    updates = 0.1 * rng.standard_normal((count, 20))
    peers = [{"w": (start + update).astype(np.float32)} for update in updates]
    reference, own = {"w": start}, peers[0]
    honest = np.stack([peer["w"] - start for peer in peers]).astype(np.float64)
    for ours, theirs in (
        (little_is_enough, byzfl.ALittleIsEnough(tau=tau)),
        (manipulate_inner_product, byzfl.InnerProductManipulation(tau=tau)),
    ):
        sent = ours(reference, own, peers, tau)["w"] - start
        np.testing.assert_allclose(sent, theirs(honest), atol=5e-6)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_looks_like_a_model_and_leaves_what_it_is_given_alone(name: str) -> None:
    own, peers = moved(2.0), [moved(1.0), moved(3.0)]
    sent = ATTACKS[name](REFERENCE, own, peers)
    assert list(sent) == list(REFERENCE)
    assert all((v.dtype, v.shape) == (REFERENCE[k].dtype, REFERENCE[k].shape) for k, v in sent.items())
    assert own["w"].tolist() == [[12.0, 22.0]]
    assert peers[0]["w"].tolist() == [[11.0, 21.0]]
