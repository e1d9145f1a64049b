"""Progress on the terminal."""

import contextlib
import math
import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="cyan")


class Reporter:
    """Progress of one phase at a time: a bar on a terminal, plain lines elsewhere.

    A stream that can no longer be written is left alone: no run stops for it.
    """

    PLAIN_SECONDS = 10.0

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self.quiet = quiet
        self._progress: Progress | None = None
        self._name, self._total, self._first, self._shown = "", 0, 0, -1
        self._start = self._said = 0.0

    def say(self, text: str) -> None:
        """One line."""
        if self.quiet:
            return
        with contextlib.suppress(OSError, ValueError):
            if self._progress is not None:
                self._progress.console.print(text, highlight=False)
            else:
                print(text, file=self._stream, flush=True)

    def expect(self, seconds: dict[str, float]) -> None:
        """About how long each part of the run will take; parts of no time are done already."""
        parts = ", ".join(f"{name} {duration(s)}" for name, s in seconds.items() if s)
        self.say(f"{'time':<10} about {duration(sum(seconds.values()))} on this machine ({parts})")

    def begin(self, name: str, total: int, done: int = 0) -> None:
        """Start the phase `name` of `total` steps, `done` of them done already.

        Does nothing while that phase goes on.
        """
        if name == self._name:
            return
        self.end()
        self._name, self._total, self._first, self._shown = name, total, done, -1
        self._start = self._said = time.monotonic()
        if not self.quiet and self._is_terminal():
            self._progress = Progress(
                TextColumn("{task.description:<10}", markup=False),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                _Rate(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(file=self._stream, markup=False),
            )
            self._progress.add_task(name, total=total, completed=done, note="")
            with contextlib.suppress(OSError, ValueError):
                self._progress.start()

    def _is_terminal(self) -> bool:
        return not self._stream.closed and self._stream.isatty()

    def update(self, done: int, note: str = "") -> None:
        """The phase has done `done` steps; `note` is a word on how it goes."""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done)
            if note:
                self._progress.update(self._progress.task_ids[0], note=note)
            return
        now = time.monotonic()
        if done < self._total and now - self._said < self.PLAIN_SECONDS and not note:
            return
        if done == self._shown and not note:
            return
        self._said, self._shown = now, done
        rate = (done - self._first) / max(now - self._start, 1e-9)
        left = (self._total - done) / rate if rate > 0 else 0.0
        text = f"{self._name:<10} {done:>8,}/{self._total:,}  {rate:,.0f}/s  {_clock(left)} left"
        self.say(f"{text}  {note}".rstrip())

    def end(self) -> None:
        """The phase is over."""
        self._name = ""
        if self._progress is not None:
            with contextlib.suppress(OSError, ValueError):
                self._progress.stop()
            self._progress = None


def number(value: float | None, digits: int = 1) -> str:
    """A number for people; "—" for one that is missing, NaN or infinite."""
    return "—" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """A time for people, no more exact than an estimate is: 40 s, 7 min, 3.5 h, 2.0 days."""
    for size, unit, digits in ((86400, "days", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
