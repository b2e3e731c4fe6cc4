"""Where work runs: in the vehicle, at the roadside, in the cloud."""
