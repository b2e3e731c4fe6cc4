"""Writes in the background: one after another, bounded in number and in time, whatever the receiver does."""

import threading
import time

import pytest

from fl_app.background_writer import BackgroundWriter


def failing() -> None:
    raise ConnectionError("nobody there")


def test_writes_are_done_in_order_and_the_last_call_comes_last() -> None:
    done, writer = list[int](), BackgroundWriter("store")
    for number in range(50):
        writer.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    writer.close(lambda: done.append(-1), patience_s=20)
    assert done == [*range(50), -1]
    assert writer.dropped == 0


def test_a_write_that_hangs_costs_what_waits_and_not_the_end() -> None:
    """Ten writes wait behind one that never returns: all are dropped, the last call is made beside it."""
    release, last, writer = threading.Event(), threading.Event(), BackgroundWriter("store")
    writer.submit(release.wait)
    for _ in range(10):
        writer.submit(lambda: None)
    began_s = time.monotonic()
    writer.close(last.set, patience_s=6)
    took_s = time.monotonic() - began_s
    release.set()
    assert took_s < 7
    assert last.is_set()
    assert writer.dropped == 10 + 1


def test_a_receiver_that_is_gone_is_left_alone_for_a_while() -> None:
    tried, writer = list[int](), BackgroundWriter("store", tries=3, pause_s=60)

    def fail(number: int) -> None:
        tried.append(number)
        failing()

    for number in range(100):
        writer.submit(lambda number=number: fail(number))  # type: ignore[misc]
    writer.close(lambda: tried.append(-1), patience_s=20)
    assert tried == [0, 1, 2, -1], "the end is told of even so"
    assert writer.dropped == 100


def test_a_receiver_that_comes_back_is_written_to_again() -> None:
    done, writer = list[int](), BackgroundWriter("store", tries=1, pause_s=0.05)
    writer.submit(failing)
    time.sleep(0.3)
    assert writer.dropped == 1
    writer.submit(lambda: done.append(1))
    writer.close(lambda: None, patience_s=20)
    assert done == [1]


def test_what_waits_is_bounded() -> None:
    release, writer = threading.Event(), BackgroundWriter("store", most_waiting=10)
    writer.submit(release.wait)
    time.sleep(0.1)  # it is at work, so that nothing waits
    for _ in range(8):
        writer.submit(lambda: None, weight=3)
    assert writer.dropped == 5  # three of weight 3 fit into 10
    release.set()
    writer.close(lambda: None, patience_s=20)
    assert writer.dropped == 5


def test_an_answer_is_waited_for_in_bounded_time() -> None:
    release, writer = threading.Event(), BackgroundWriter("store")
    assert writer.ask(lambda: 7, 5) == 7
    with pytest.raises(ConnectionError, match="nobody there"):
        writer.ask(failing, 5)
    writer.submit(release.wait)
    with pytest.raises(TimeoutError):
        writer.ask(lambda: 7, 0.1)
    release.set()
