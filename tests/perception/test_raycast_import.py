"""open3d is imported by whichever thread renders first, while others import modules of their own."""

import subprocess
import sys
from pathlib import Path

# The other thread gets its turn in the middle of open3d's walk through `sys.modules`, twice.
PROGRAM = """
import sys, threading, time
import numpy as np
from perception.raycast import RayScene

sys.path.insert(0, sys.argv[1])
turns, errors, hits = [threading.Event(), threading.Event()], [], []

def import_others():
    for number, turn in enumerate(turns):
        if turn.wait(30):
            __import__(f"other_{number}")

def trace(frame, event, argument):
    return within if frame.f_code.co_name == "_insert_pybind_names" else None

def within(frame, event, argument):
    number = sum(turn.is_set() for turn in turns)
    if "modname" in frame.f_locals and "seen" not in frame.f_globals and number < len(turns):
        frame.f_globals["seen"] = True  # once a walk: the package is executed anew
        turns[number].set()
        while f"other_{number}" not in sys.modules:
            time.sleep(0.001)
    return within

def cast():
    sys.settrace(trace)
    try:
        corners = np.array([[-9, -9, 5], [9, -9, 5], [0, 9, 5]], np.float32)
        scene = RayScene(corners, np.array([[0, 1, 2]], np.int32))
        hits.append(float(scene.cast(np.array([[0, 0, 0, 0, 0, 1]], np.float32)).t[0]))
    except BaseException as error:
        errors.append(error)

before = sys.getswitchinterval()
threads = [threading.Thread(target=target) for target in (import_others, cast, cast)]
for thread in threads:
    thread.start()
for thread in threads[1:]:
    thread.join()
assert not errors, errors
assert all(turn.is_set() for turn in turns)
assert sys.getswitchinterval() == before
print(hits)
"""


def test_threads_cast_rays_while_another_imports_modules(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"other_{number}.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "[5.0, 5.0]", done.stderr[-3000:]
