"""Flower's public `Grid` in one process: a few threads run the ClientApp, arrays are handed over without copying.

Replies come out as they are ready and only as fast as they are taken, so memory does not grow with the number of
vehicles. A vehicle that exceeds the timeout is given up on, its thread replaced, and it counts as unavailable until it
is done. Threads cannot be killed: a client that must survive a crash of its process needs another engine.
"""

import contextlib
import ctypes
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity  # no public way yet to give messages a sender

CLIENT_APP_RAISED_EXCEPTION, NODE_UNAVAILABLE = 2, 5  # Flower's error codes
RUN_ID = 1
QUICK_S, QUICK_BATCH = 1e-3, 4  # a client this quick is not worth a thread switch of its own
M_ARENA_MAX = -8  # of glibc's malloc.h


@dataclass(eq=False)
class _Job:
    """One message on its way through a vehicle. `cancelled`: not wanted any more; `replaced`: its thread hangs."""

    message: Message
    outbox: "_Outbox"
    batch: "deque[_Job]"
    started_s: float | None = None
    cancelled: bool = False
    replaced: bool = False
    finished: bool = False


class _Outbox:
    """Where replies of one call wait. Putting one in does not wake the reader, `wake` does."""

    def __init__(self) -> None:
        self._replies: deque[tuple[_Job, Message]] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def put(self, job: _Job, reply: Message) -> None:
        self._replies.append((job, reply))

    def wake(self) -> None:
        self._bell.put(None)

    def get(self, timeout: float | None) -> tuple[_Job, Message] | None:
        """The next reply, or None when `timeout` seconds passed or the bell rang for nothing."""
        if not self._replies:
            with contextlib.suppress(queue.Empty):
                self._bell.get(timeout=timeout)
        return self._replies.popleft() if self._replies else None


class LocalGrid(Grid):
    """Runs a ClientApp for many vehicles on a pool of daemon threads.

    Args:
        client_app: called as `client_app(message, context)`, by several threads at a time.
        num_nodes: number of vehicles; each has a context of its own that persists over rounds.
        run_config: given to every context.
        workers: threads.

    Raises:
        ValueError: no node or no worker.
    """

    def __init__(self, client_app: ClientApp, num_nodes: int, run_config: Mapping, *, workers: int = 2) -> None:
        if num_nodes < 1 or workers < 1:
            raise ValueError(f"LocalGrid needs at least one node and one worker, got {num_nodes} and {workers}")
        _share_one_heap()
        self._app, self._workers = client_app, workers
        self._contexts = {
            i + 1: Context(
                run_id=RUN_ID,
                node_id=i + 1,
                node_config={"partition-id": i, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for i in range(num_nodes)
        }
        self._jobs: queue.SimpleQueue[deque[_Job] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._busy: dict[int, _Job] = {}
        self._pushed: dict[str, _Outbox] = {}
        self._pace_s = float("inf")
        self._ids = itertools.count(1)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, 1, 1
        self._flower_run = Run.create_empty(RUN_ID)
        for _ in range(workers):
            self._start_worker()

    def set_run(self, run: Run) -> None:
        self._flower_run = run

    @property
    def run(self) -> Run:
        return self._flower_run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Sequence[int]:
        return list(self._contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Replies as they are ready; `timeout` in seconds holds for each vehicle from when its work starts."""
        waiting, outbox, running, reply = iter(messages), _Outbox(), set[_Job](), None
        try:
            while True:
                running |= self._top_up(waiting, outbox, len(running))
                if reply is not None:
                    yield reply
                    reply = None
                elif not running:
                    return
                else:
                    reply = self._next_reply(running, outbox, timeout)
        finally:
            for job in running:
                job.cancelled = True

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            outbox = _Outbox()
            self._submit([message], outbox)
            self._pushed[message.metadata.message_id] = outbox
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = []
        for message_id in list(message_ids):
            outbox = self._pushed.get(message_id)
            if outbox is not None and (found := outbox.get(timeout=0)) is not None:
                replies.append(found[1])
                del self._pushed[message_id]
        return replies

    def close(self) -> None:
        """Let the idle threads end."""
        for _ in range(self._workers):
            self._jobs.put(None)

    def _top_up(self, waiting: Iterator[Message], outbox: _Outbox, running: int) -> set[_Job]:
        """Keep the workers busy. Work that is quick goes to one of them in batches, and the reader waits meanwhile:
        threads that all take short turns hand the interpreter's lock back and forth more than they compute.
        """
        if self._pace_s < QUICK_S:
            return self._submit(list(islice(waiting, QUICK_BATCH)), outbox) if not running else set()
        jobs = (self._submit([message], outbox) for message in islice(waiting, max(0, self._workers - running)))
        return set().union(*jobs)

    def _submit(self, messages: list[Message], outbox: _Outbox) -> set[_Job]:
        batch: deque[_Job] = deque()
        jobs = set()
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(next(self._ids))  # as every Grid of Flower does
            job, node_id = _Job(message, outbox, batch), message.metadata.dst_node_id
            jobs.add(job)
            with self._lock:
                free = node_id in self._contexts and node_id not in self._busy
                if free:
                    self._busy[node_id] = job
                    batch.append(job)
            if not free:
                reason = "still at work on an earlier message" if node_id in self._contexts else "no such node"
                outbox.put(job, Message(Error(NODE_UNAVAILABLE, reason), reply_to=message))
                outbox.wake()
        if batch:
            self._jobs.put(batch)
        return jobs

    def _next_reply(self, running: set[_Job], outbox: _Outbox, timeout: float | None) -> Message | None:
        """Wait for a job of `running` and take it out; None when there was none, or some were late instead."""
        found = outbox.get(self._patience_s(running, timeout))
        if found is None:
            self._give_up_on_late(running, timeout)
            return None
        job, reply = found
        if job not in running:
            return None
        running.discard(job)
        return reply

    def _patience_s(self, running: set[_Job], timeout: float | None) -> float | None:
        """Time until the next job is late. A job that has not started has all its time left."""
        if timeout is None:
            return None
        now = time.monotonic()
        return max(0.0, min((j.started_s if j.started_s is not None else now) + timeout - now for j in running))

    def _give_up_on_late(self, running: set[_Job], timeout: float | None) -> None:
        now = time.monotonic()
        for job in list(running):
            with self._lock:
                late = job.started_s is not None and timeout is not None and now - job.started_s >= timeout
                job.replaced = late and not job.finished
            if late:
                running.discard(job)
            if job.replaced:  # another thread takes over what is behind it; it ends when its client returns
                self._jobs.put(job.batch)
                self._start_worker()

    def _start_worker(self) -> None:
        threading.Thread(target=self._work, name="local-grid", daemon=True).start()

    def _work(self) -> None:
        while (batch := self._jobs.get()) is not None:
            while batch:
                try:
                    job = batch.popleft()
                except IndexError:  # somebody else took over
                    break
                self._run_job(job)
                if not batch or self._pace_s >= QUICK_S:
                    job.outbox.wake()
                if job.replaced:
                    return
            del batch

    def _run_job(self, job: _Job) -> None:
        job.started_s = time.monotonic()
        reply = None if job.cancelled else self._call(job.message)
        self._pace_s = time.monotonic() - job.started_s
        with self._lock:
            self._busy.pop(job.message.metadata.dst_node_id, None)
            job.finished = True
        if reply is not None:
            job.outbox.put(job, reply)

    def _call(self, message: Message) -> Message:
        try:
            reply = self._app(message, self._contexts[message.metadata.dst_node_id])
        except BaseException as error:  # whatever a client does, it costs its own update only
            reply = Message(Error(CLIENT_APP_RAISED_EXCEPTION, f"{type(error).__name__}: {error}"), reply_to=message)
        reply.metadata.__dict__["_message_id"] = f"{message.metadata.message_id}-reply"
        return reply


def _share_one_heap() -> None:
    """Have new threads allocate from the main heap: with an arena each, glibc keeps a freed model for every thread.

    Costs nothing measurable; a low M_MMAP_THRESHOLD saves the same memory but half of the training speed (page faults).
    Does nothing where the C library is another one.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
