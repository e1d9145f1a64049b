"""Locks between threads and processes; what a full disk and a damaged byte become."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest

from stratdiff import files
from stratdiff import process as signals
from stratdiff.errors import Interrupted, RunStopped, UserError
from stratdiff.files import (
    check_seal,
    checksum,
    lock_directory,
    lock_file,
    replacing,
    seal,
    summed,
    undoing,
    unsummed,
    write_text,
    writing,
)

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


def test_the_lock_waits_as_long_as_it_is_told_to(tmp_path, hold):
    process = hold("lock_directory", tmp_path / "run")
    threading.Timer(0.3, process.kill).start()
    with lock_directory(tmp_path / "run", wait=30.0):
        pass


def test_a_directory_that_stays_empty_goes_again_with_what_was_made_for_it(tmp_path):
    (tmp_path / "mine").mkdir()
    with lock_directory(tmp_path / "mine" / "runs" / "one"):
        pass
    with lock_directory(tmp_path / "mine"):
        pass
    assert visible(tmp_path) == ["mine"] and visible(tmp_path / "mine") == []
    with lock_directory(tmp_path / "mine" / "runs" / "one"):
        (tmp_path / "mine" / "runs" / "one" / "config.json").touch()
    assert (tmp_path / "mine" / "runs" / "one" / "config.json").exists()


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    own = {".hidden", ".notes.12", f".backup.{ended.pid}", ".policy.safetensors.partial-now"}
    for name in (*own, f".policy.safetensors.partial-{ended.pid}"):
        (tmp_path / name).touch()
    with lock_directory(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == own | {".lock"}
    # What a living process writes stays.
    with replacing(tmp_path / "kept") as partial:
        partial.touch()
        with lock_directory(tmp_path):
            assert partial.exists()


def test_a_start_that_fails_is_undone(tmp_path):
    (tmp_path / "before").touch()

    def start(error):
        with undoing(tmp_path):
            (tmp_path / "config.json").touch()
            (tmp_path / "checkpoints" / "0").mkdir(parents=True)
            raise error

    with pytest.raises(UserError):
        start(UserError("no"))
    assert visible(tmp_path) == ["before"]
    with pytest.raises(KeyboardInterrupt):  # the run can go on from here
        start(KeyboardInterrupt)
    assert sorted(visible(tmp_path)) == ["before", "checkpoints", "config.json"]


# A disk that fails


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("when", ["write", "replace"])
def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(
    tmp_path, monkeypatch, code, when
):
    (tmp_path / "summary.json").write_text("before")

    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch, pytest.raises(RunStopped) as caught:
        if when == "replace":
            patch.setattr(files.os, "replace", fail)
        else:
            patch.setattr(type(tmp_path), "write_text", fail)
        write_text(tmp_path / "summary.json", "after")
    said = str(caught.value)
    assert caught.value.exit_code == 1 and "\n" not in said
    assert f"{str(tmp_path / 'summary.json')!r} could not be written ({os.strerror(code)})" in said
    assert "stratdiff resume DIR" in said
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert (tmp_path / "summary.json").read_text() == "before"


def test_a_folder_that_is_half_written_goes(tmp_path):
    def write():
        with replacing(tmp_path / "phase") as partial:
            partial.mkdir()
            (partial / "arrays").write_text("1")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(RunStopped, match=r"phase' could not be written \(full\)"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ValueError("E: x/7: No space left on device [OS error 28]\nmore"),
            "No space left",
        ),
        (RuntimeError("first\nsecond"), r"\(first\)"),
        (RuntimeError(), r"\(RuntimeError\)"),
    ],
)
def test_a_library_s_own_error_is_one_sentence(tmp_path, error, said):
    with pytest.raises(RunStopped, match=said) as caught, writing(tmp_path, Exception):
        raise error
    assert "\n" not in str(caught.value)
    with pytest.raises(type(error)), writing(tmp_path):  # where nobody expects it, it is a bug
        raise error


def test_a_limit_on_file_sizes_is_a_full_disk(tmp_path):
    code = (
        "import sys, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pathlib import Path; from stratdiff import files\n"
        "files.write_text(Path(sys.argv[1]), 'x' * 9000)"
    )
    limited = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", sys.executable, "-c", code]
    done = subprocess.run([*limited, tmp_path / "config.json"], capture_output=True, text=True)
    assert "RunStopped" in done.stderr and os.strerror(errno.EFBIG) in done.stderr
    assert list(tmp_path.iterdir()) == []


# Damage


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4)])
@pytest.mark.parametrize("dtype", [np.float32, bool, np.uint8])
def test_every_damaged_byte_of_an_array_changes_its_checksum(shape, dtype):
    array = np.ones(shape, dtype)
    sums = {checksum(array)}
    for place in range(array.nbytes):
        damaged = array.copy()
        damaged.reshape(-1).view(np.uint8)[place] ^= 1
        sums.add(checksum(damaged))
    assert len(sums) == 1 + array.nbytes
    assert checksum(array) == checksum(array.tobytes())
    assert checksum(np.asfortranarray(array)) == checksum(array)


def test_a_table_tells_its_damage():
    table = {"b": [1.5, float("inf"), float("nan"), None], "a": {"x": "ö", "y": (1, 2)}}
    text = json.dumps(summed(table))
    found = unsummed(json.loads(text))
    assert repr(found) == repr(table | {"a": {"x": "ö", "y": [1, 2]}})
    for damaged in (text.replace("1.5", "1.6"), text.replace('"b"', '"c"'), "[]", "3", "{}"):
        with pytest.raises(ValueError, match="checksum"):
            unsummed(json.loads(damaged))


def test_a_sealed_file_tells_its_damage_and_readers_do_not_see_the_seal(tmp_path):
    array, numbers, hdf5 = np.arange(40.0), tmp_path / "a.npy", tmp_path / "a.hdf5"
    np.save(numbers, array)
    with h5py.File(hdf5, "w") as file:
        file["a"] = array
    for path in (numbers, hdf5):
        with pytest.raises(ValueError, match="checksum"):
            check_seal(path)
        check_seal(path, required=False)
        seal(path)
        check_seal(path)
        whole = path.read_bytes()
        for place in (*range(0, len(whole), 97), len(whole) - 1):
            damaged = bytearray(whole)
            damaged[place] ^= 4
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="checksum"):
                check_seal(path)
        for part in (b"", whole[:5], whole[:-1]):
            path.write_bytes(part)
            with pytest.raises(ValueError, match=r"cut off|checksum"):
                check_seal(path)
        path.write_bytes(whole)
    np.testing.assert_array_equal(np.load(numbers), array)
    with h5py.File(hdf5) as file:
        np.testing.assert_array_equal(file["a"][:], array)


def test_a_folder_that_a_thread_still_fills_is_removed(tmp_path, monkeypatch):
    real, calls = shutil.rmtree, []

    def late(folder, **options):
        """A file appears while the folder is removed, so that it stays, the first two times."""
        calls.append(folder)
        if len(calls) > 2:
            real(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", late)
    with pytest.raises(ValueError, match="no"), undoing(tmp_path):
        (tmp_path / "new").mkdir()
        raise ValueError("no")
    assert len(calls) == 3 and visible(tmp_path) == []


def test_a_lock_is_held_while_somebody_has_it(tmp_path):
    path = tmp_path / "lock"
    assert not files.is_held(path)
    with files.marking(path), files.marking(path):  # the second one goes on without
        assert files.is_held(path)
    assert not files.is_held(path)


def test_who_waits_for_a_lock_honours_a_signal(tmp_path, monkeypatch):
    came = signals._Signals()
    came.number = 15
    with files.lock_file(tmp_path / "file"):
        monkeypatch.setattr(signals, "_signals", came)
        with pytest.raises(Interrupted), files.lock_file(tmp_path / "file"):
            pass
    came.number = 0
    with files.lock_file(tmp_path / "file"):
        pass
