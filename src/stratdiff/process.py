"""Signals and standard streams of a process that is the command's own.

A program that imports the package keeps its own handlers and streams: nothing here is called.
"""

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from stratdiff.errors import Interrupted


class _Signals:
    """What came: `number` is 0, or the signal that a run has to honour at its next step."""

    number = 0
    deferred = False

    def handle(self, number: int, frame: Any) -> None:
        first, self.number = not self.number, self.number or number
        if not (first and self.deferred):
            raise Interrupted(number)


_signals = _Signals()


def cores() -> int:
    """How many cores this process may use, where the system tells, or has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def stopping() -> bool:
    """Whether a signal waits to be honoured: a few nanoseconds."""
    return _signals.number != 0


def honour() -> None:
    """Stop here if a signal came.

    Raises:
        Interrupted: it did.
    """
    if _signals.number:
        raise Interrupted(_signals.number)


@contextlib.contextmanager
def deferring() -> Iterator[None]:
    """The first signal waits for the next `honour`, at the latest the end; a second one does not.

    Raises:
        Interrupted: a signal came that nothing inside has honoured.
    """
    _signals.deferred = True
    try:
        yield
        honour()
    finally:
        _signals.deferred = False


def take_signals(terminal_may_close: bool) -> None:
    """Handle SIGINT and SIGTERM; the end of the terminal is no reason to stop a training run."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _signals.handle)
    if terminal_may_close and hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def follow_parent(stream: int, seconds: float = 30.0) -> None:
    """Stop this process when the other end of a pipe is closed: whoever held it is gone.

    A run takes its checkpoint first; after `seconds` the process ends in any case.
    """

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(stream, 1024):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


class _Lasting(io.FileIO):
    """A standard stream that may break: what cannot be written is dropped, and remembered."""

    failed: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failed = error
            return len(memoryview(data).cast("B"))


def last(number: int) -> io.TextIOWrapper:
    """Standard stream 1 or 2 as one that neither breaks nor refuses a character."""
    name = {1: "stdout", 2: "stderr"}[number]
    old = getattr(sys, name)
    try:
        raw = _Lasting(number, "w", closefd=False)
    except OSError:  # it was closed before the program began
        raw = _Lasting(os.devnull, "w")
    stream = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(old, "encoding", "utf-8"),
        errors="replace",
        line_buffering=number == 2 or raw.isatty(),
    )
    setattr(sys, name, stream)
    return stream


def broken(stream: io.TextIOWrapper) -> OSError | None:
    """What kept a stream of `last` from being written, if anything did."""
    stream.flush()
    return stream.buffer.raw.failed  # type: ignore[attr-defined]
