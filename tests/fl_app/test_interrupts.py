"""Signals: SIGTERM ends as Ctrl-C does, and the end itself is not broken off. In a process of its own."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import os, signal, sys, time
from fl_app import interrupts
interrupts.install()
def close():
    print("closing", flush=True)
    time.sleep(1.5)
    print("closed", flush=True)
try:
    print("at work", flush=True)
    time.sleep(30)
except KeyboardInterrupt:
    print("interrupted", flush=True)
finally:
    interrupts.close_unbroken(close)
os._exit(interrupts.exit_code(0))
"""

THREAD = """
import threading, time
from fl_app import interrupts
said, begun = [], threading.Event()
def work():
    try:
        begun.set()
        for _ in range(3000):
            time.sleep(0.01)
    except KeyboardInterrupt:
        said.append("interrupted")
    finally:
        interrupts.close_unbroken(close)
def close():
    begun.clear()
    interrupts.raise_in(threading.current_thread())
    begun.set()
    for _ in range(100):
        time.sleep(0.01)
    said.append("closed")
thread = threading.Thread(target=work)
thread.start()
begun.wait()
interrupts.raise_in(thread)
time.sleep(0.5)
interrupts.raise_in(thread)
thread.join()
print(said)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_and_the_second_does_not_break_the_end_off(first: int, second: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    printed = []
    assert process.stdout is not None
    for line in process.stdout:
        printed.append(line.strip())
        if printed[-1] == "at work":
            time.sleep(0.2)
            process.send_signal(first)
        if printed[-1] == "closing":
            process.send_signal(second)
    _, complaint = process.communicate(timeout=20)
    assert printed == ["at work", "interrupted", "closing", "closed"]
    assert process.returncode == 128 + first
    assert "already ending" in complaint
    assert "Traceback" not in complaint


def test_a_thread_that_closes_its_run_is_not_interrupted_again() -> None:
    done = subprocess.run([sys.executable, "-c", THREAD], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "['interrupted', 'closed']", done.stderr
