"""Of Q-CPTO's paper (arXiv 2405.20587): what section V says of figures 2 to 5, and the integer program in HiGHS."""

from collections.abc import Callable
from typing import Final

import _harness as harness
import numpy as np
from _offload_crossing import SWEEPS, Swept, mean_of

from edge.offload.capacity import places
from edge.offload.model import Slot

WHO: Final = ("exact", "ours", "ours, union")
# Figure: what is swept, and rows of: quantity, figure, rival, sign of an improvement, paper's Q-CPTO and Q-CPTO-H.
QUOTED: Final = {
    "2": (
        "c, GHz",
        (
            ("awareness over GO, %", "awareness", "go", 1, 20.3, 22.4),
            ("delay over GO, %", "delay_s", "go", -1, -14.2, -22.3),
            ("users a worker over GO, %", "users_a_worker", "go", -1, -26.1, -27.5),
            ("satisfied over GO, points", "satisfied", "go", 1, 18.3, 16.4),
            ("awareness over CPTO, %", "awareness", "cpto", 1, 44.9, 47.5),
            ("delay over CPTO, %", "delay_s", "cpto", -1, -7.5, -16.2),
            ("satisfied over CPTO, points", "satisfied", "cpto", 1, 36.7, 34.5),
        ),
    ),
    "3": (
        "deadline, s",
        (
            ("awareness over GO, %", "awareness", "go", 1, 16.6, 17.6),
            ("delay over GO, %", "delay_s", "go", -1, -19.6, -27.1),
            ("users a worker over GO, %", "users_a_worker", "go", -1, -30.4, -31.1),
            ("satisfied over GO, points", "satisfied", "go", 1, 14.3, 12.6),
            ("awareness over CPTO, %", "awareness", "cpto", 1, 36.2, 37.5),
            ("delay over CPTO, %", "delay_s", "cpto", -1, -10.0, -18.2),
            ("satisfied over CPTO, points", "satisfied", "cpto", 1, 30.0, 28.0),
        ),
    ),
    "4": (
        "vehicles",
        (
            ("awareness over GO, %", "awareness", "go", 1, 13.6, 13.7),
            ("delay over GO, %", "delay_s", "go", -1, -13.5, -21.2),
            ("users a worker over GO, %", "users_a_worker", "go", -1, -25.7, -24.8),
            ("satisfied over GO, points", "satisfied", "go", 1, 11.3, 10.0),
            ("awareness over CPTO, %", "awareness", "cpto", 1, 36.5, 36.7),
            ("delay over CPTO, %", "delay_s", "cpto", -1, -6.6, -14.4),
            ("satisfied over CPTO, points", "satisfied", "cpto", 1, 30.0, 28.6),
        ),
    ),
    "5": ("vehicles", (("decision's time over the exact one, %", "seconds", "exact", -1, None, -83.5),)),
}


def paper_table(swept: Swept) -> list[harness.Row]:
    """The largest improvements over each sweep that was run, the paper's and ours."""
    rows: list[harness.Row] = []
    for figure, (title, quoted) in QUOTED.items():
        settings = [setting for setting in SWEEPS[title] if (setting, "ours") in swept]
        if len(settings) < 2:
            continue
        for text, name, rival, sign, paper, heuristic in quoted:
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
