"""Names of metrics that MLflow takes, and a bound on how many of them a round may log.

A vehicle chooses its own name and the names of what it measures. MLflow refuses a whole batch for one name that it does
not know how to store, and its database takes half a kilobyte a value.
"""

import hashlib
import math
import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

LONGEST: Final = 250
MOST, MOST_EACH = 3000, 100  # metrics of a round, and of one vehicle or RSU in it
DIGEST: Final = 8
ODD: Final = re.compile(r"[^/\w.\- ]")
OF_MANY: Final = ("vehicle", "rsu")  # tiers with a metric for each of their members


def make_storable(name: str) -> str:
    """Returns the name itself where MLflow takes it, else one like it that no other name turns into."""
    plain = ODD.sub("_", name)
    parts = [part if part not in ("", ".", "..") else "_" for part in plain.split("/")]
    plain = "/".join(parts)
    if plain == name and len(name) <= LONGEST and posixpath.normpath(name) == name:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:DIGEST]
    return f"{plain[: LONGEST - DIGEST - 1]}-{digest}"


def select_metrics(
    values: Mapping[str, object], most: int = MOST, most_each: int = MOST_EACH
) -> tuple[dict[str, float], int]:
    """Returns the metrics to log by storable name, and how many were left out.

    NaN and infinity, which some stores refuse, are not logged and not counted. Figures of all come first, then those of
    RSUs and vehicles, each in the order of names, so that the same ones are logged in every round.
    """
    chosen: dict[str, float] = {}
    left_out, of_member = 0, Counter[tuple[str, ...]]()
    for name in sorted(values, key=lambda name: (name.split("/", 1)[0] in OF_MANY, name)):
        number = _to_float(values[name])
        if number is None:
            left_out += 1
        elif math.isfinite(number):
            tier, *rest = name.split("/", 2)
            member = (tier, *rest[:1]) if tier in OF_MANY else ()
            of_member[member] += 1
            if len(chosen) >= most or (member and of_member[member] > most_each):
                left_out += 1
            else:
                chosen[make_storable(name)] = number
    return chosen, left_out


def _to_float(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
