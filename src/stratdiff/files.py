"""Files that appear when they are complete; one process at a time, at a file or in a directory.

filelock is imported when a lock is taken, since it loads fcntl. The system frees the lock of a
process that dies.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from stratdiff.errors import UserError


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Wait until no other process is at work on the file `path`; its folder is made.

    Raises:
        OSError: the folder cannot be written.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write into the path that this gives; without an error the result then replaces `path`.

    Raises:
        OSError: the folder cannot be written; nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears when it is complete."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold off every other process that would train in this directory; it is made.

    Raises:
        UserError: another process trains there, or the directory cannot be made or written.
    """
    from filelock import FileLock, Timeout

    path = (directory / ".lock").absolute()
    lock = FileLock(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"another process is training the run {str(directory)!r}; wait for it, or stop it."
        ) from error
    except OSError as error:
        raise UserError(
            f"output directory {str(directory)!r} cannot be made or read ({error.strerror}); give "
            "another --out."
        ) from error
    try:
        yield
    finally:
        # Removed while it is held: whoever opened it meanwhile notices and opens the new one.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
