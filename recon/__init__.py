"""Rebuilding streets in 3D."""
