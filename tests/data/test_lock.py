"""Locks hold between threads and processes, and end with the process that holds them."""

import subprocess
import sys
import threading
import time

import pytest

from stratdiff.data.lock import alone, locked
from stratdiff.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from stratdiff.data import lock
with getattr(lock, sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    """Another process that holds a lock until it is killed."""
    started = []

    def start(kind, path):
        line = [sys.executable, "-c", HOLD, kind, str(path)]
        started.append(subprocess.Popen(line, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def visible(folder):
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def test_alone_between_processes(tmp_path, hold):
    run = tmp_path / "runs" / "one"
    process = hold("alone", run)
    words = rf"another process is training the run '{run}'"
    with pytest.raises(UserError, match=words), alone(run):
        pass
    assert visible(run) == []  # the directory still looks empty to `train`
    process.kill()
    process.wait()
    with alone(run):
        assert run.is_dir()
    assert list(run.iterdir()) == []


def test_alone_inside_of_one_process(tmp_path):
    with alone(tmp_path / "a"), alone(tmp_path / "b"):
        with pytest.raises(UserError, match="another process"), alone(tmp_path / "a"):
            pass
        with pytest.raises(UserError, match="another process"), alone(tmp_path / "a"):
            pass
    with alone(tmp_path / "a"):
        pass
    with pytest.raises(KeyError), alone(tmp_path / "a"):
        raise KeyError
    with alone(tmp_path / "a"):
        pass


def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    run = tmp_path / "file" / "run"
    with pytest.raises(UserError, match=r"cannot be made or read .*--out"), alone(run):
        pass


def test_locked_waits_for_the_other(tmp_path, hold):
    path, order = tmp_path / "deep" / "made.hdf5", []
    process = hold("locked", path)

    def wait():
        with locked(path):
            order.append("second")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    order.append("first")
    process.kill()
    thread.join(30)
    assert order == ["first", "second"]
    assert visible(path.parent) == []
