"""Makes SIGTERM end a run as Ctrl-C does, and keeps the end of a run from being broken off by a further signal."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
GRACE_S: Final = 75.0  # after which a process that was told to end does so, whatever it waits for
ENDING: Final = b"\nalready ending: the tracked run is being closed, which takes half a minute at most\n"

_received: list[int] = []
_closing: set[int] = set()  # threads that close a run
_lock = threading.RLock()


def install() -> None:
    """Have SIGINT and SIGTERM raise KeyboardInterrupt in the main thread; one that is ignored stays so."""
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _handle)


def exit_code(default: int) -> int:
    """Returns 128 and the number of the signal that ended the run, or the default if none did."""
    return 128 + _received[0] if _received else default


def note(signum: int) -> None:
    """Count a signal that somebody else's handler took."""
    _receive(signum)


def close_unbroken(close: Callable[[], object]) -> None:
    """Call `close`, which must end in bounded time, with signals ignored; one just before it does not skip it."""
    while True:
        try:
            with _shielded():
                close()
            return
        except KeyboardInterrupt:
            continue  # it came before the shield was up


def raise_in(thread: threading.Thread) -> None:
    """Raise KeyboardInterrupt in another thread, unless it is closing a run already."""
    with _lock:
        if thread.ident is not None and thread.ident not in _closing:
            _set_pending(thread.ident, ctypes.py_object(KeyboardInterrupt))


@contextmanager
def _shielded() -> Iterator[None]:
    thread = threading.get_ident()
    with _lock:
        _closing.add(thread)
        _set_pending(thread, None)
    try:
        yield
    finally:
        _closing.discard(thread)


def _set_pending(thread: int, error: ctypes.py_object | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error)


def _handle(signum: int, _: FrameType | None) -> None:
    if _closing:
        os.write(2, ENDING)
        return
    _receive(signum)
    raise KeyboardInterrupt


def _receive(signum: int) -> None:
    if not _received:
        timer = threading.Timer(GRACE_S, os._exit, (128 + signum,))
        timer.daemon = True
        timer.start()
    _received.append(signum)
