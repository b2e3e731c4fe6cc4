"""Data sets, detector, losses and metrics: everything a vehicle needs to see, without any federation."""
