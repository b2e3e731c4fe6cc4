"""Shape and type checks for the tests: what the annotations of these packages say is enforced at every call."""

import dataclasses
import functools
import inspect
import typing
import warnings
from collections.abc import Callable, Iterator

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

CHECKED = ["geometry", "perception", "recon", "edge", "strategies", "clients"]

# An int may stand where a float is asked for, as PEP 484 has it.
_typed = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_axes = jaxtyping.jaxtyped("context")  # within it, an axis has one length


def _known(hint: object, names: dict[str, typing.Any]) -> object:
    """A hint that was written as a string, if it is known by now: some names are imported for type checkers only."""
    try:
        return eval(hint, names) if isinstance(hint, str) else hint
    except NameError:
        return typing.Any


def _names_arrays(hint: object) -> bool:
    array = inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return array or any(map(_names_arrays, typing.get_args(hint)))


def _checked(target: typing.Any = None, *, typechecker: object = None) -> typing.Any:
    """What the import hook puts on every function and class, in place of `jaxtyping.jaxtyped`.

    That one binds the arguments of each call to the signature and looks at them twice; most calls in the town take a
    microsecond, so it was where most of the time of the tests went.
    """
    if target is None:
        return _checked
    if inspect.isclass(target):
        if dataclasses.is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = _checked(target.__init__)
        return target
    target.__annotations__ = {at: _known(hint, target.__globals__) for at, hint in target.__annotations__.items()}
    checked: Callable[..., typing.Any] = _typed(target)

    @functools.wraps(target)
    def alone(*args: object, **kwargs: object) -> object:
        return (target if jaxtyping.config.jaxtyping_disable else checked)(*args, **kwargs)

    @functools.wraps(target)
    def together(*args: object, **kwargs: object) -> object:
        if jaxtyping.config.jaxtyping_disable:
            return target(*args, **kwargs)
        with _axes:
            return checked(*args, **kwargs)

    return together if any(map(_names_arrays, target.__annotations__.values())) else alone


jaxtyping.jaxtyped = _checked
jaxtyping.install_import_hook(CHECKED, None)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what libraries warn of while they are imported is not ours to mend
    import flwr.app
    import flwr.serverapp.strategy  # noqa: F401


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small work of torch on one thread, whatever the machine has."""
    import torch  # here, for tests without it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
