"""Keeping models fresh as the world drifts."""
