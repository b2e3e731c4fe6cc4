"""Runs writes one after another on a thread of their own, and never waits for a receiver that does not answer.

A write that fails costs itself only. After a few failures in a row the receiver counts as gone: writes are dropped for
a while, then one is tried again. What waits is bounded, and so is the end.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

logger = logging.getLogger("convoy")
LOCAL_ERRORS = (FileNotFoundError, PermissionError, MemoryError)  # say nothing about the receiver
LAST_S = 4.0  # what the last call has to itself at the end
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Job:
    call: Callable[[], object]
    weight: int


class BackgroundWriter:
    """A queue of writes and the daemon thread that carries them out.

    Args:
        name: what is written to, for the log.
        most_waiting: sum of the weights of writes that may wait; more are dropped.
        tries: failures in a row after which the receiver counts as gone.
        pause_s: for how long nothing is tried then.
    """

    def __init__(self, name: str, most_waiting: int = 100_000, tries: int = 3, pause_s: float = 60.0) -> None:
        self._name, self._most_waiting, self._tries, self._pause_s = name, most_waiting, tries, pause_s
        self.busy_s, self.dropped = 0.0, 0
        self._jobs: deque[_Job] = deque()
        self._waiting, self._failures, self._paused_until_s = 0, 0, 0.0
        self._changed = threading.Condition()
        self._last: Callable[[], object] | None = None
        self._skip_from_s = float("inf")
        self._last_begun, self._ended = threading.Event(), threading.Event()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, call: Callable[[], object], weight: int = 1) -> None:
        """Queue a write; it is dropped and counted when too much waits already."""
        with self._changed:
            if self._waiting + weight > self._most_waiting or self._last is not None:
                self.dropped += 1
                return
            self._jobs.append(_Job(call, weight))
            self._waiting += weight
            self._changed.notify()

    def ask(self, call: Callable[[], Result], timeout_s: float) -> Result:
        """Carry a call out after all that waits, and return its result.

        Raises:
            TimeoutError: there is none in time.
            Exception: what the call raises.
        """
        answer: Future[Result] = Future()

        def carry_out() -> None:
            try:
                answer.set_result(call())
            except Exception as error:
                answer.set_exception(error)

        self.submit(carry_out)
        return answer.result(timeout_s)

    def close(self, last: Callable[[], object], patience_s: float) -> None:
        """Write what waits, then make the last call; within `patience_s`, whatever the receiver does.

        What is not written in time is dropped and counted. A second call does nothing.
        """
        until_s = time.monotonic() + patience_s
        with self._changed:
            if self._last is not None:
                return
            self._last, self._skip_from_s = last, until_s - 2 * LAST_S
            self._changed.notify()
        if not self._last_begun.wait(max(0.0, until_s - LAST_S - time.monotonic())):
            threading.Thread(target=self._try, args=(last,), name=f"{self._name}-last", daemon=True).start()
        self._ended.wait(max(0.0, until_s - time.monotonic()))
        with self._changed:
            self.dropped += len(self._jobs) + (not self._ended.is_set())
            self._jobs.clear()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._last is not None)
                job = self._jobs.popleft() if self._jobs else None
                if job is not None:
                    self._waiting -= job.weight
            if job is None:
                break
            if not self._paused_until_s <= time.monotonic() < self._skip_from_s:
                self.dropped += 1
            else:
                self._try(job.call)
        self._last_begun.set()
        if self._last is not None:
            self._try(self._last)
        self._ended.set()

    def _try(self, call: Callable[[], object]) -> None:
        began_s = time.thread_time()
        try:
            call()
            self._failures = 0
        except Exception as error:
            self._count(error)
        finally:
            self.busy_s += time.thread_time() - began_s

    def _count(self, error: Exception) -> None:
        self.dropped += 1
        text = (str(error).splitlines() or [""])[0][:300]
        if isinstance(error, LOCAL_ERRORS):
            logger.warning("%s: %s: %s", self._name, type(error).__name__, text)
            return
        self._failures += 1
        if self._failures == 1:
            logger.warning("%s: %s: %s", self._name, type(error).__name__, text)
        if self._failures >= self._tries:
            self._paused_until_s = time.monotonic() + self._pause_s
            logger.warning("%s: no answer; nothing is written there for %.0f s", self._name, self._pause_s)
