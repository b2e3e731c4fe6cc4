"""Cameras, poses, frames and traces: the leaf that everything else rests on. Imports numpy alone."""

from geometry.camera import Camera
from geometry.frame import Boxes, Frame
from geometry.se3 import SE3
from geometry.sim3 import Sim3, robust_sim3
from geometry.trace import Indicator, Trace

__all__ = ["SE3", "Boxes", "Camera", "Frame", "Indicator", "Sim3", "Trace", "robust_sim3"]
