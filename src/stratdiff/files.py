"""Files that appear when they are complete, and tell damage; one process at a time at each.

filelock is imported when a lock is taken, since it loads fcntl. The system frees the lock of a
process that dies.
"""

import contextlib
import errno
import glob
import json
import mmap
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff import process
from stratdiff.errors import RunStopped, UserError

LOCK = ".lock"
"""Who trains a run holds this file in its directory (`lock_directory`)."""
MARK = ".compare.lock"
"""Whoever does an experiment's runs holds this file in the directory above them (`marking`)."""
_SEAL = b"crc32:"
_PARTIAL = ".partial-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextlib.contextmanager
def writing(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Turn what fails while `path` is written into one sentence.

    `others`: what a library raises where the system's own error is an `OSError`.

    Raises:
        RunStopped: the disk is full, read-only or gone; what was saved before is whole.
    """
    outside: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except outside as error:
        raise RunStopped(
            f"{str(path)!r} could not be written ({_reason(error)}); what was saved before is "
            "safe, so mend that and go on: a run with `stratdiff resume DIR`, anything else with "
            "the same command."
        ) from error


def check_space(folder: Path, needed: int) -> None:
    """OSError where the disk has less space than `needed` bytes."""
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _reason(error: Exception) -> str:
    """What the system says; libraries that are not Python's put it into a long text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = (os.strerror(number) for number in (*_FULL, errno.EROFS, errno.EACCES, errno.ENOENT))
    text = str(error) or type(error).__name__
    return next((words for words in known if words in text), text.splitlines()[0][:200])


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Wait until no other process is at work on the file `path`; its folder is made.

    Raises:
        OSError: the folder cannot be written. Interrupted: a signal came while it waited.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    while not lock.is_locked:
        process.honour()
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0.5)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write into the path that this gives; without an error the result then replaces `path`.

    The path may become a file or a folder.

    Raises:
        RunStopped: the folder cannot be written; nothing is left behind.
    """
    partial = partial_of(path)
    try:
        with writing(path):
            yield partial
            os.replace(partial, path)
    finally:
        _remove(partial)


def partial_of(path: Path) -> Path:
    """Where this process writes what becomes `path`; what killed processes left there goes."""
    _clean(path.parent, f".{glob.escape(path.name)}")
    return path.with_name(f".{path.name}{_PARTIAL}{os.getpid()}")


def _clean(folder: Path, names: str) -> None:
    """Remove what `replacing` left in processes that were killed, and nothing of anybody else."""
    for left in folder.glob(f"{names}{_PARTIAL}*"):
        number = left.name.rpartition(_PARTIAL)[2]
        if number.isdecimal() and not _is_alive(int(number)):
            _remove(left)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears when it is complete; errors as `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def checksum(data: Any) -> int:
    """CRC-32 of bytes or of an array: it finds every damage of a byte, at gigabytes a second."""
    if isinstance(data, np.ndarray):
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    return zlib.crc32(data)


def summed(table: dict[str, Any]) -> dict[str, Any]:
    """A table for a JSON file, with its own checksum in it."""
    return table | {"crc32": checksum(json.dumps(table, sort_keys=True).encode())}


def unsummed(table: Any) -> dict[str, Any]:
    """The table that `summed` was given.

    Raises:
        ValueError: it is another, or no such table.
    """
    found = dict(table) if isinstance(table, dict) else {}
    found.pop("crc32", None)
    if not isinstance(table, dict) or summed(found) != table:
        raise ValueError("its checksum is another")
    return found


def _content(path: Path) -> tuple[int, bytes]:
    """(checksum of what stands before the seal's place, what stands there)."""
    size = path.stat().st_size - len(_SEAL) - 4
    if size <= 0:
        raise ValueError("it is cut off")
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole,
        memoryview(whole) as view,
        view[:size] as before,
    ):
        return zlib.crc32(before), whole[size:]


def seal(path: Path) -> None:
    """Add the file's checksum at its end, where readers of .npy and HDF5 do not look."""
    with path.open("ab") as file:
        file.write(_SEAL + bytes(4))
    number, _ = _content(path)
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(number.to_bytes(4, "big"))


def check_seal(path: Path, required: bool = True) -> None:
    """Check a file that `seal` closed.

    `required`: whether a file without a seal (of an earlier version) is damaged too.

    Raises:
        ValueError: it is damaged. OSError: it cannot be read.
    """
    number, found = _content(path)
    sealed = found.startswith(_SEAL)
    if (sealed or required) and found != _SEAL + number.to_bytes(4, "big"):
        raise ValueError("its checksum is another")


@contextlib.contextmanager
def lock_directory(directory: Path, wait: float = 0) -> Iterator[None]:
    """Hold off every other process that would train in this directory; it is made.

    What was made for it and is still empty at the end goes again. `wait`: seconds to wait for a
    process that is there.

    Raises:
        UserError: another process trains there, or the directory cannot be made or written.
    """
    from filelock import FileLock, Timeout

    path = (directory / LOCK).absolute()
    lock = FileLock(path)
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait)
    except Timeout as error:
        raise UserError(
            f"another process is training the run {str(directory)!r}; wait for it, or stop it."
        ) from error
    except OSError as error:
        _remove_empty(made)
        kind = RunStopped if error.errno in _FULL else UserError
        raise kind(
            f"output directory {str(directory)!r} cannot be made or read ({error.strerror}); give "
            "another --out."
        ) from error
    _clean(directory, ".*")
    try:
        yield
    finally:
        # Removed while it is held: whoever opened it meanwhile notices and opens the new one.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
        _remove_empty(made)


@contextlib.contextmanager
def marking(path: Path) -> Iterator[None]:
    """Hold the lock `path`, unless another process has it: `is_held` then tells that one is here.

    Raises:
        RunStopped: the file cannot be written.
    """
    from filelock import FileLock, Timeout

    with contextlib.ExitStack() as stack:
        with writing(path), contextlib.suppress(Timeout):
            stack.enter_context(FileLock(path).acquire(timeout=0))
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the lock `path`."""
    from filelock import FileLock, Timeout

    if not path.exists():
        return False
    try:
        with FileLock(path).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # another user's
        return False


def folders(root: Path) -> Iterator[tuple[Path, bool]]:
    """The folders from `root` down, and whether each is a run's; those in a run's are left out."""
    for folder, names, files in os.walk(root):
        is_run = "config.json" in files
        yield Path(folder), is_run
        # The pre-training that variants share is no run of its own.
        own = [] if is_run else names
        names[:] = sorted(n for n in own if n != "pretrained" and not n.startswith("."))


def run_folders(root: Path) -> list[Path]:
    """The directories of runs from `root` down."""
    return [folder for folder, is_run in folders(root) if is_run]


@contextlib.contextmanager
def undoing(directory: Path) -> Iterator[None]:
    """On an error (not on a signal), remove what is new in the directory, but for the lock."""
    there = {*directory.iterdir()}
    try:
        yield
    except Exception:
        for path in {*directory.iterdir()} - there:
            if path.is_dir():
                _remove_tree(path)
            elif path.name != LOCK:
                path.unlink(missing_ok=True)
        raise


def _remove_tree(folder: Path) -> None:
    """Remove a folder into which another thread may still write for a moment."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(0.1)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
