"""Shape and type checks for the tests: what the annotations of these packages say is enforced at every call."""

import warnings

from jaxtyping import install_import_hook

CHECKED = ["geometry", "perception", "strategies", "clients"]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # libraries warn while they are imported; a test turns warnings into errors
    import flwr.app
    import flwr.serverapp.strategy  # noqa: F401

install_import_hook(CHECKED, "beartype.beartype")
