"""Of Q-CPTO's paper (arXiv 2405.20587): what section V says of figures 2 to 5, and the integer program in HiGHS."""

from collections.abc import Callable
from typing import Final

import _harness as harness
import numpy as np
from _offload_crossing import SWEEPS, Swept, mean_of

from edge.offload.capacity import places
from edge.offload.model import Slot

WHO: Final = ("exact", "ours", "ours, union")
# What figures 2 to 4 are quoted for: text, figure, rival, sign of an improvement.
COMPARED: Final = (
    ("awareness over GO, %", "awareness", "go", 1),
    ("delay over GO, %", "delay_s", "go", -1),
    ("users a worker over GO, %", "users_a_worker", "go", -1),
    ("satisfied over GO, points", "satisfied", "go", 1),
    ("awareness over CPTO, %", "awareness", "cpto", 1),
    ("delay over CPTO, %", "delay_s", "cpto", -1),
    ("satisfied over CPTO, points", "satisfied", "cpto", 1),
)
TIME: Final = (("decision's time over the exact one, %", "seconds", "exact", -1),)
# By figure: what is swept, what is compared, the paper's Q-CPTO and its Q-CPTO-H.
QUOTED: Final = {
    "2": (
        "c, GHz",
        COMPARED,
        (20.3, -14.2, -26.1, 18.3, 44.9, -7.5, 36.7),
        (22.4, -22.3, -27.5, 16.4, 47.5, -16.2, 34.5),
    ),
    "3": (
        "deadline, s",
        COMPARED,
        (16.6, -19.6, -30.4, 14.3, 36.2, -10.0, 30.0),
        (17.6, -27.1, -31.1, 12.6, 37.5, -18.2, 28.0),
    ),
    "4": (
        "vehicles",
        COMPARED,
        (13.6, -13.5, -25.7, 11.3, 36.5, -6.6, 30.0),
        (13.7, -21.2, -24.8, 10.0, 36.7, -14.4, 28.6),
    ),
    "5": ("vehicles", TIME, (None,), (-83.5,)),
}


def paper_table(swept: Swept) -> list[harness.Row]:
    """The largest improvements over each sweep that was run, the paper's and ours."""
    rows: list[harness.Row] = []
    for figure, (title, compared, *quoted) in QUOTED.items():
        settings = [setting for setting in SWEEPS[title] if (setting, "ours") in swept]
        if len(settings) < 2:
            continue
        for (text, name, rival, sign), paper, heuristic in zip(compared, *quoted, strict=True):
            row: harness.Row = {"figure": figure, "up to": text, "Q-CPTO": paper, "Q-CPTO-H": heuristic}
            for who in WHO if figure != "5" else WHO[1:]:
                changes = [_change(text)(*(mean_of(swept, at, one, name) for one in (who, rival))) for at in settings]
                row[f"here: {who}"] = 100 * sign * max(sign * change for change in changes)
            rows.append(row)
    return rows


def _change(text: str) -> Callable[[float, float], float]:
    """Of a figure over the rival's: as a share, or in points."""
    return (lambda ours, theirs: ours - theirs) if "points" in text else (lambda ours, theirs: ours / theirs - 1)


def paper_program_gap(slot: Slot, limit_s: float) -> float:
    """Gap that HiGHS leaves on the paper's program: x_ij, and for every pair that gains y_ikj at most x_ij and x_kj.

    1 if it finds nothing in time.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_array, coo_array, eye_array, kron, vstack

    users, workers = slot.uplink_bps.shape
    first, second = np.nonzero(np.triu(slot.pair_value))
    pairs = len(first)
    one_worker = kron(eye_array(users), np.ones((1, workers)))
    counts = kron(np.ones((1, users)), eye_array(workers))
    ends = [coo_array((-np.ones(pairs), (np.arange(pairs), end)), shape=(pairs, users)) for end in (first, second)]
    wide = coo_array((users + workers, pairs * workers))
    rows = vstack([one_worker, counts])
    both = [(kron(end, eye_array(workers)), eye_array(pairs * workers)) for end in ends]
    matrix = block_array([[rows, wide], *([[x, y] for x, y in both])], format="csc")
    most = places(slot)
    limits = np.concatenate([np.ones(users), most.max(axis=0), np.zeros(2 * pairs * workers)])
    cost = np.concatenate([np.zeros(users * workers), -np.repeat(slot.pair_value[first, second], workers)])
    upper = np.concatenate([(most > 0).ravel().astype(float), np.ones(pairs * workers)])
    whole = np.concatenate([np.ones(users * workers), np.zeros(pairs * workers)])
    found = milp(
        cost,
        integrality=whole,
        bounds=Bounds(0, upper),
        constraints=LinearConstraint(matrix, -np.inf, limits),
        options={"time_limit": limit_s},
    )
    if found.x is None or not found.fun or found.mip_dual_bound is None:
        return 1.0
    return 1 - found.fun / found.mip_dual_bound
