"""Which vehicles fuse their views at which roadside unit (RSU): the value of information under a deadline."""

from edge.offload.policies import POLICIES

__all__ = ["POLICIES"]
