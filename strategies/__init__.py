"""Server side of the hierarchy: who belongs where, how updates are judged and merged, and Flower's strategies."""

from strategies.hierarchical import Hierarchical
from strategies.hierarchical_config import HierarchicalConfig

STRATEGIES = {"hierarchical": Hierarchical}

__all__ = ["STRATEGIES", "Hierarchical", "HierarchicalConfig"]
