"""Hands out a deployment's replies as they come: Flower's own grids hand them out together, after the slowest."""

import time
from collections.abc import Iterable, Iterator, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fl_app.local_grid import LocalGrid

POLL_S = 0.5


class StreamingGrid(Grid):
    """Flower's grid, whose `send_and_receive` yields each reply once it is there.

    Args:
        grid: a grid that pushes and pulls.
        poll_s: seconds between two looks for replies.
    """

    def __init__(self, grid: Grid, poll_s: float = POLL_S) -> None:
        self._grid, self._poll_s = grid, poll_s

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Sequence[int]:
        return list(self._grid.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Replies as they are found; ends when all are there or `timeout` seconds are over."""
        waiting = {message_id for message_id in self._grid.push_messages(list(messages)) if message_id}
        ends_s = None if timeout is None else time.monotonic() + timeout
        while waiting:
            for reply in self._grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            if not waiting or (ends_s is not None and time.monotonic() >= ends_s):
                return
            time.sleep(self._poll_s)


def stream_replies(grid: Grid) -> Grid:
    """Returns a grid that hands out replies as they come; the local one does so by itself."""
    return grid if isinstance(grid, LocalGrid) else StreamingGrid(grid)
