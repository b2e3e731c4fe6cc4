"""The two engines of one machine behind the same ServerApp and ClientApp. Deployment needs none: `flwr run` does it."""

import copy
import importlib
import os
import signal
import threading
import warnings
from collections.abc import Mapping
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_app import interrupts
from fl_app.local_grid import RUN_ID, LocalGrid, check_reply


def load(reference: str) -> Any:
    """The object that "package.module:name" names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def run_local(
    server_app: ServerApp, client_app: ClientApp, num_supernodes: int, run_config: Mapping, backend: Mapping
) -> None:
    """Run in this process; `backend` may hold "workers", by default one per CPU."""
    workers = backend.get("workers", os.cpu_count() or 1)
    grid = LocalGrid(client_app, num_supernodes, run_config, workers=min(num_supernodes, workers))
    try:
        server_app(grid, Context(RUN_ID, 0, {}, RecordDict(), dict(run_config)))
    finally:
        grid.close()


def run_ray(
    server_app: ServerApp, client_app: ClientApp, num_supernodes: int, run_config: Mapping, backend: Mapping
) -> None:
    """Run on Flower's Ray engine.

    One CPU per vehicle, and an actor that dies (out of memory, a crash in a library) is started anew and its message
    tried once more: without that it goes back into Flower's pool and swallows every message it is given from then on.
    """
    from flwr.simulation import run_simulation

    resources = {"num_cpus": 1, "num_gpus": 0.0, "max_restarts": -1, "max_task_retries": 1} | dict(
        backend.get("client_resources", {})
    )
    settings = {**backend, "client_resources": resources}
    wrapped = _ConfiguredServer(server_app, dict(run_config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run_simulation(wrapped, _ConfiguredClient(client_app, dict(run_config)), num_supernodes, "ray", settings)
        except (KeyboardInterrupt, SystemExit) as stopped:
            interrupts.install()  # Ray took the handlers, and gives back none
            if isinstance(stopped, SystemExit):  # what Ray's handler makes of SIGTERM
                interrupts.note(signal.SIGTERM)
            interrupts.close_unbroken(wrapped.interrupt)
            raise KeyboardInterrupt from None
    if wrapped.error is not None:
        raise wrapped.error


class _ConfiguredClient(ClientApp):
    """Gives a ClientApp the run config, which `run_simulation` has no argument for."""

    def __init__(self, app: ClientApp, run_config: dict[str, Any]) -> None:
        super().__init__()
        self._app, self._run_config = app, run_config

    def __call__(self, message: Message, context: Context) -> Message:
        configured = copy.copy(context)  # Flower refuses a changed run config; `state` is shared by both
        configured.run_config = self._run_config
        return check_reply(self._app(message, configured), message)


class _ConfiguredServer(ServerApp):
    """The same for a ServerApp; it also keeps what the app raised, and passes an interrupt on to its thread."""

    def __init__(self, app: ServerApp, run_config: dict[str, Any]) -> None:
        super().__init__()
        self._app, self._run_config = app, run_config
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def __call__(self, grid: Grid, context: Context) -> None:
        self._thread = threading.current_thread()
        context.run_config = self._run_config
        try:
            self._app(grid, context)
        except KeyboardInterrupt as error:
            self.error = error  # `run_ray` raises it where it is waited for
        except BaseException as error:
            self.error = error
            raise

    def interrupt(self, patience_s: float = 40.0) -> None:
        """Raise KeyboardInterrupt in the ServerApp's thread and wait for it to close its run."""
        if self._thread is not None:
            interrupts.raise_in(self._thread)
            self._thread.join(patience_s)
