"""Locks hold between threads and processes, and end with the process that holds them."""

import subprocess
import sys
import threading
import time

import pytest

from stratdiff.errors import UserError
from stratdiff.files import lock_directory, lock_file

HOLD = """
import sys, time
from pathlib import Path
from stratdiff import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])):
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


def test_lock_directory_between_processes(tmp_path, hold):
    run = tmp_path / "runs" / "one"
    process = hold("lock_directory", run)
    words = rf"another process is training the run '{run}'"
    with pytest.raises(UserError, match=words), lock_directory(run):
        pass
    assert visible(run) == []  # the directory still looks empty to `train`
    process.kill()
    process.wait()
    with lock_directory(run):
        assert run.is_dir()
    assert list(run.iterdir()) == []


def test_lock_directory_inside_of_one_process(tmp_path):
    with lock_directory(tmp_path / "a"), lock_directory(tmp_path / "b"):
        with pytest.raises(UserError, match="another process"), lock_directory(tmp_path / "a"):
            pass
        with pytest.raises(UserError, match="another process"), lock_directory(tmp_path / "a"):
            pass
    with lock_directory(tmp_path / "a"):
        pass
    with pytest.raises(KeyError), lock_directory(tmp_path / "a"):
        raise KeyError
    with lock_directory(tmp_path / "a"):
        pass


def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    run = tmp_path / "file" / "run"
    with pytest.raises(UserError, match=r"cannot be made or read .*--out"), lock_directory(run):
        pass


def test_lock_file_waits_for_the_other(tmp_path, hold):
    path, order = tmp_path / "deep" / "made.hdf5", []
    process = hold("lock_file", path)

    def wait():
        with lock_file(path):
            order.append("second")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    order.append("first")
    process.kill()
    thread.join(30)
    assert order == ["first", "second"]
    assert visible(path.parent) == []
