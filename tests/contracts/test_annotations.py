"""Tests run with annotations enforced: what breaks one is an error where it is handed over, not pages later."""

import jaxtyping
import numpy as np
import pytest

from geometry import SE3, Boxes


def boxes(**wrong: np.ndarray) -> Boxes:
    right = {"xyxy_px": np.zeros((2, 4), np.float32), "labels": np.zeros(2, int), "track_ids": np.zeros(2, int)}
    return Boxes(**right | wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"xyxy_px": np.zeros((2, 5), np.float32)}, {"xyxy_px": np.zeros((2, 4))}, {"labels": np.zeros(3, int)}],
    ids=["axis that is fixed", "kind of number", "axis that two share"],
)
def test_fields_of_a_dataclass(wrong: dict[str, np.ndarray]) -> None:
    assert len(boxes()) == 2
    with pytest.raises(jaxtyping.TypeCheckError, match=r"Boxes\.__init__"):
        boxes(**wrong)


def test_arguments_of_a_function() -> None:
    assert SE3.from_yaw(1, np.zeros(3)).translation_m.shape == (3,)
    for yaw_rad, translation_m in (("1", np.zeros(3)), (1.0, np.zeros(2))):
        with pytest.raises(jaxtyping.TypeCheckError, match="from_yaw"):
            SE3.from_yaw(yaw_rad, translation_m)


def test_what_a_function_returns() -> None:
    pose, point = SE3.identity(), np.zeros((1, 3))
    assert pose.apply(point).shape == (1, 3)
    object.__setattr__(pose, "translation_m", np.zeros((2, 3)))  # one point becomes two
    with pytest.raises(jaxtyping.TypeCheckError, match="return"):
        pose.apply(point)
