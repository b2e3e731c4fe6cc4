"""Shape and type checks for the tests: what the annotations of these packages say is enforced at every call."""

import sys
import types
import warnings

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

CHECKED = ["geometry", "perception", "recon", "edge", "strategies", "clients"]

# The hook takes the checker by name; ours lets an int stand where a float is asked for, as PEP 484 has it.
checker = types.ModuleType("convoy_type_checker")
checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))
sys.modules[checker.__name__] = checker
install_import_hook(CHECKED, f"{checker.__name__}.check")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what libraries warn of while they are imported is not ours to mend
    import flwr.app
    import flwr.serverapp.strategy  # noqa: F401
