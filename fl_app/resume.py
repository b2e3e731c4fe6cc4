"""What a run that is gone on with may change of its settings, and what it must keep."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from fl_app.run_config import RunConfig, parse
from perception.datasets.base import DataError

WHERE: Final = frozenset({"output-dir", "run-name", "resume", "experiment", "tracking-uri", "holdout-path"})
HOW_LONG: Final = frozenset({"cloud-rounds", "refine-rounds", "deadline-s", "join-timeout-s", "wall-timeout-s"})
WHO: Final = frozenset({"fraction", "over-selection", "quorum", "evaluate-every", "topology"})
TRUST: Final = frozenset(
    {
        "rsu-rule",
        "cloud-rule",
        "trim-fraction",
        "byzantine",
        "clip-norm",
        "max-examples",
        "max-update-ratio",
        "max-norm-growth",
        "max-weight-ratio",
    }
)
TRAINING: Final = frozenset(
    {
        "local-epochs",
        "batch-size",
        "learning-rate",
        "final-learning-rate",
        "warmup-steps",
    }
)
REFINEMENT: Final = frozenset({"refine-steps", "momentum", "block-weighting", "sight-m"})
MAY_CHANGE: Final = WHERE | HOW_LONG | WHO | TRUST | TRAINING | REFINEMENT
"""All that a resumed run may change; everything else says what the saved state is of, and stays."""


def check_unchanged(
    option: str,
    folder: str | Path,
    before: Mapping[str, object],
    config: RunConfig,
    keys: Iterable[str] | None = None,
) -> None:
    """Compares a run's settings with those that a saved state came from.

    What an older run did not know has its default.

    Args:
        option: that names the folder.
        folder: of the earlier run.
        before: its settings.
        config: those of this run.
        keys: which to compare, by default all but those of `MAY_CHANGE`.

    Raises:
        DataError: settings differ that must not, one line each with both values.
    """
    defaults, now = parse({}).as_flower(), config.as_flower()
    kept = [key for key in now if key not in MAY_CHANGE] if keys is None else keys
    pairs = {key: (now[key], before.get(key, defaults[key])) for key in kept}
    differ = [f"{key} = {new!r}, there {old!r}" for key, (new, old) in pairs.items() if not _same(key, new, old, now)]
    if differ:
        raise DataError(
            f"{option}: {folder} was run with other settings:\n  "
            + "\n  ".join(differ)
            + "\nLeave them out"
            + ", and --num-supernodes" * any(text.startswith("vehicles =") for text in differ)
            + ", or start a run of its own"
        )


def _same(key: str, new: object, old: object, now: Mapping[str, object]) -> bool:
    if key == "data-path" and isinstance(new, str) and isinstance(old, str):
        unused = now["data"] == "town" and now["task"] == "perception"
        return unused or (bool(new) == bool(old) and Path(new).resolve() == Path(old).resolve())
    return type(new) is type(old) and new == old
