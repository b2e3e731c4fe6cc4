"""What `convoy offload` shows: a slot in words and tables, policies side by side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table

from edge.offload.capacity import value_of
from edge.offload.controller import Tick
from edge.offload.exact import ExactConfig, solve_exact
from fl_app.console import as_text
from fl_app.offload_run import interval95
from fl_app.plain_figures import pyplot, save_figure

# Column: figure, factor, format.
COLUMNS: Final = {
    "awareness, %": ("awareness", 100, ".1f"),
    "satisfied, %": ("satisfied", 100, ".1f"),
    "delay, ms": ("delay-s", 1000, ".0f"),
    "users an RSU": ("users-per-worker", 1, ".1f"),
    "who turns, %": ("awareness-turning", 100, ".1f"),
}
BARS: Final = ("awareness, %", "satisfied, %", "delay, ms", "users an RSU")
MEANS: Final = {"users": ("users", 1, ".1f"), "served": ("served", 1, ".1f"), "ms": ("decision-s", 1000, ".1f")}


def words(figures: Mapping[str, float]) -> str:
    """The figures of a slot or a run in one line."""
    if not figures["users"]:
        return "nobody takes part"
    parts = [
        f"{figures['served']:.3g} of {figures['users']:.3g} users served",
        f"awareness {figures['awareness']:.1%} (alone {figures['awareness-alone']:.1%})",
        f"{figures['satisfied']:.1%} satisfied",
    ]
    if not math.isnan(figures["delay-s"]):
        parts.append(f"delay {1000 * figures['delay-s']:.0f} ms")
    parts += [f"{figures['late']:.0f} late", f"decided in {1000 * figures['decision-s']:.1f} ms"]
    if "slowest-decision-s" in figures:
        parts[-1] += f" (slowest with geometry {1000 * figures['slowest-decision-s']:.0f} ms)"
    if not math.isnan(figures.get("turn-recall", math.nan)):
        parts.append(f"turn recall {figures['turn-recall']:.0%}")
        parts.append(f"awareness of who truly turns {figures['awareness-turning']:.1%}")
    if figures["lost"]:
        parts.append(f"{figures['lost']:.0f} clusters lost")
    return ", ".join(parts)


def value_words(tick: Tick, limit_s: float) -> str:
    """The assignment's value and what no assignment has more than, found within a time."""
    slot = tick.situation.slot
    value = value_of(slot.pair_value, tick.assignment.worker)
    bound = solve_exact(slot, ExactConfig(limit_s=limit_s)).bound
    gap = f"{max(0.0, 1 - value / bound):.2%} may be missing" if bound > 0 else "nothing is missing"
    return f"value {value:.4f} of at most {bound:.4f} (sum of pairs): {gap}"


def rsu_table(tick: Tick) -> Table:
    """What each RSU that has a cluster does."""
    table = Table(title="RSUs that fuse", title_justify="left")
    for name in ("RSU", "GHz", "users", "delay, ms", "awareness", "fused area, m²"):
        table.add_column(name, justify="left" if name == "RSU" else "right")
    slot = tick.situation.slot
    places = {worker.name: place for place, worker in enumerate(slot.workers)}
    for view in tick.views:
        members = tick.assignment.members(places[view.worker])
        delay_ms = 1000 * tick.response_s[members].max()
        speed = f"{slot.workers[places[view.worker]].cycles_per_s / 1e9:g}"
        cells = [f"{delay_ms:.0f}", f"{view.awareness.mean():.1%}", f"{view.area_m2:.0f}"]
        table.add_row(as_text(view.worker), speed, str(len(members)), *cells)
    return table


def user_rows(tick: Tick) -> list[dict[str, Any]]:
    """A line for each user."""
    slot, worker = tick.situation.slot, tick.assignment.worker
    return [
        {
            "user": user.name,
            "rsu": slot.workers[worker[i]].name if worker[i] >= 0 else "",
            "reason": tick.assignment.reasons[i].value,
            "delay-s": "" if math.isnan(tick.response_s[i]) else float(tick.response_s[i]),
            "awareness-alone": float(tick.alone[i]),
            "awareness": float(tick.awareness[i]),
            "east-m": user.position_m[0],
            "north-m": user.position_m[1],
        }
        for i, user in enumerate(slot.users)
    ]


def comparison_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Means over the seeds, with 95 % intervals where there are two seeds or more; ms is the time for a decision."""
    table = Table(title=as_text(title), title_justify="left")
    table.add_column("policy", no_wrap=True)
    for name in (*COLUMNS, *MEANS, "late"):
        table.add_column(name, justify="right", no_wrap=True)
    for policy in dict.fromkeys(row["policy"] for row in rows):
        mine = [row for row in rows if row["policy"] == policy]
        series = [[row.get(key, math.nan) * factor for row in mine] for key, factor, _ in COLUMNS.values()]
        cells = [_cell(values, form) for values, (_, _, form) in zip(series, COLUMNS.values(), strict=True)]
        cells += [f"{np.mean([row[key] for row in mine]) * factor:{form}}" for key, factor, form in MEANS.values()]
        table.add_row(as_text(policy), *cells, f"{sum(row['late'] for row in mine):.0f}")
    return table


def save_bars(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The same as bars with their intervals; writes a PNG."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    figure, axes = pyplot.subplots(1, len(BARS), figsize=(3.2 * len(BARS), 3.2), layout="constrained")
    for axis, name in zip(axes, BARS, strict=True):
        key, factor, _ = COLUMNS[name]
        series = [[row[key] * factor for row in rows if row["policy"] == policy] for policy in policies]
        widths = [interval95(values) for values in series]
        errors = None if np.isnan(widths).all() else np.nan_to_num(widths)
        axis.bar(policies, [float(np.nanmean(values)) for values in series], yerr=errors, capsize=3)
        axis.set(title=name)
        axis.tick_params(axis="x", rotation=45)
        axis.grid(axis="y", alpha=0.3)
    save_figure(figure, path, dpi=120)
    pyplot.close(figure)


def _cell(values: Sequence[float], form: str) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "–"
    half = interval95(known)
    return f"{np.mean(known):{form}}" + ("" if math.isnan(half) else f" ± {half:{form}}")
