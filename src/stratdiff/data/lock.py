"""One process at a time: at a file that several may want to make, at a run's directory."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from stratdiff.errors import UserError


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process is at work on the file `path`; its folder is made.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The empty file stays: removing it could split those who wait for it.
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """No other process trains in this directory meanwhile; it is made.

    Raises:
        UserError: one does, or the directory cannot be made or read.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        folder = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"output directory {str(directory)!r} cannot be made or read ({error.strerror}); give "
            "another --out."
        ) from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is training the run {str(directory)!r}; wait for it, or stop it."
            ) from error
        yield
    finally:
        os.close(folder)
