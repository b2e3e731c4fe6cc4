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
QUICK_S = 1e-3  # clients this quick run one at a time
M_ARENA_MAX = -8  # of glibc's malloc.h


@dataclass(eq=False)
class _Job:
    """One message on its way through a vehicle. `cancelled`: not wanted any more; `replaced`: its thread hangs."""

    message: Message
    outbox: "_Outbox"
    started_s: float | None = None
    cancelled: bool = False
    replaced: bool = False
    finished: bool = False


_Outbox = queue.SimpleQueue[tuple[_Job, Message]]  # where the replies of one call wait


class LocalGrid(Grid):
    """Runs a ClientApp for many vehicles on a pool of daemon threads.

    Args:
        client_app: called as `client_app(message, context)`, by several threads at a time.
        num_nodes: number of vehicles; each has a context of its own that persists over rounds.
        run_config: given to every context.
        workers: threads.
        node_configs: what each node's config holds beside its partition, as `flower-supernode --node-config` would.

    Raises:
        ValueError: no node or no worker, or another number of configs.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping,
        *,
        workers: int = 2,
        node_configs: Sequence[Mapping] | None = None,
    ) -> None:
        if num_nodes < 1 or workers < 1:
            raise ValueError(f"LocalGrid needs at least one node and one worker, got {num_nodes} and {workers}")
        _share_one_heap()
        self._app, self._workers = client_app, workers
        self._contexts = {
            i + 1: Context(
                run_id=RUN_ID,
                node_id=i + 1,
                node_config={"partition-id": i, "num-partitions": num_nodes, **own},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for i, own in zip(range(num_nodes), node_configs or [{}] * num_nodes, strict=True)
        }
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
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
        waiting, outbox, running = iter(messages), _Outbox(), set[_Job]()
        try:
            reply = None
            while True:
                for message in islice(waiting, self._free_places(len(running), reply is not None)):
                    running.add(self._submit(message, outbox))
                if reply is not None:
                    yield reply
                elif not running:
                    return
                reply = self._next_reply(running, outbox, timeout) if running else None
        finally:
            for job in running:
                job.cancelled = True

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            outbox = _Outbox()
            self._submit(message, outbox)
            self._pushed[message.metadata.message_id] = outbox
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = []
        for message_id in list(message_ids):
            outbox = self._pushed.get(message_id)
            if outbox is not None and not outbox.empty():
                replies.append(outbox.get()[1])
                del self._pushed[message_id]
        return replies

    def close(self) -> None:
        """Let the idle threads end."""
        for _ in range(self._workers):
            self._jobs.put(None)

    def _free_places(self, running: int, reader_busy: bool) -> int:
        """How many vehicles may start. Threads that all take short turns hand the interpreter's lock back and forth
        more than they compute, so quick vehicles take turns with each other and with the reader.
        """
        return max(0, 1 - running - reader_busy if self._pace_s < QUICK_S else self._workers - running)

    def _submit(self, message: Message, outbox: _Outbox) -> _Job:
        message.metadata.__dict__["_message_id"] = str(next(self._ids))  # as every Grid of Flower does
        job, node_id = _Job(message, outbox), message.metadata.dst_node_id
        if node_id in self._contexts and self._busy.setdefault(node_id, job) is job:
            self._jobs.put(job)
        else:
            reason = "still at work on an earlier message" if node_id in self._contexts else "no such node"
            outbox.put((job, Message(Error(NODE_UNAVAILABLE, reason), reply_to=message)))
        return job

    def _next_reply(self, running: set[_Job], outbox: _Outbox, timeout: float | None) -> Message | None:
        """Wait for a job of `running` and take it out; None when there was none, or some were late instead."""
        try:
            job, reply = outbox.get(timeout=self._patience_s(running, timeout))
        except queue.Empty:
            self._give_up_on_late(running, timeout)
            return None
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
            if job.replaced:  # its thread ends when its client returns
                self._start_worker()

    def _start_worker(self) -> None:
        threading.Thread(target=self._work, name="local-grid", daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.started_s = time.monotonic()
            reply = None if job.cancelled else self._call(job.message)
            self._pace_s = time.monotonic() - job.started_s
            with self._lock:
                del self._busy[job.message.metadata.dst_node_id]
                job.finished = True
            if reply is not None:
                job.outbox.put((job, reply))
            if job.replaced:
                return
            del job, reply  # a waiting thread keeps no model alive

    def _call(self, message: Message) -> Message:
        try:
            reply = check_reply(self._app(message, self._contexts[message.metadata.dst_node_id]), message)
        except BaseException as error:  # whatever a client does, it costs its own update only
            reply = Message(Error(CLIENT_APP_RAISED_EXCEPTION, f"{type(error).__name__}: {error}"), reply_to=message)
        reply.metadata.__dict__["_message_id"] = f"{message.metadata.message_id}-reply"
        return reply


def check_reply(reply: object, message: Message) -> Message:
    """Returns what a ClientApp made of a message, which is a reply to it.

    Raises:
        TypeError: it is no message.
        ValueError: it answers another message, or none.
    """
    if not isinstance(reply, Message):
        raise TypeError(f"the ClientApp returned {type(reply).__name__}, not a Message")
    there, asked = reply.metadata, message.metadata
    if there.reply_to_message_id != asked.message_id or there.src_node_id != asked.dst_node_id:
        raise ValueError("the ClientApp returned a Message that is no reply to the one it got")
    return reply


def _share_one_heap() -> None:
    """Have new threads allocate from the main heap: with an arena each, glibc keeps a freed model for every thread.

    Costs nothing measurable; a low M_MMAP_THRESHOLD saves the same memory but half of the training speed (page faults).
    Does nothing where the C library is another one.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
