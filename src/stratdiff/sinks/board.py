"""What the runs of an experiment are doing, as their processes tell it: a live table, or lines."""

import contextlib
import json
import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from stratdiff.sinks.progress import Reporter, duration


class Told(Reporter):
    """Progress of a process, as lines of JSON for the one that started it.

    A line is a list: `["begin", phase, steps, done]`, `["update", done, note]`, `["say", text]`,
    `["left", seconds]` or `["failed", reason]`.
    """

    SECONDS = 1.0

    def tell(self, *event: Any) -> None:
        """One line; dropped where nobody reads any more."""
        with contextlib.suppress(OSError, ValueError):
            print(json.dumps(event), file=self._stream, flush=True)

    def say(self, text: str) -> None:
        self.tell("say", text)

    def expect(self, seconds: dict[str, float]) -> None:
        self.tell("left", sum(seconds.values()))

    def begin(self, name: str, total: int, done: int = 0) -> None:
        if name != self._name:
            self._name, self._total, self._said = name, total, time.monotonic()
            self.tell("begin", name, total, done)

    def update(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if note or done == self._total or now - self._said >= self.SECONDS:
            self._said = now
            self.tell("update", done, note)

    def end(self) -> None:
        self._name = ""


class Board:
    """Shows what runs, what is done and what is left: a live table on a terminal, lines elsewhere.

    Lines go to standard error, at most one in `PLAIN_SECONDS`.
    """

    PLAIN_SECONDS = 30.0
    MOST = 5
    """Runs that are done, and that are left, in the table: the last and the next ones."""

    def __init__(self, names: list[str], jobs: int, stream: TextIO | None = None) -> None:
        self._left, self._jobs = [*names], jobs
        self._rows: dict[str, _Row] = {}
        self._done: list[tuple[str, str]] = []
        self._took: list[float] = []
        self._said = time.monotonic()
        console = Console(file=stream, markup=False)
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2)
        self._watched = console.is_terminal and not console.is_dumb_terminal

    def __enter__(self) -> "Board":
        if self._watched:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._watched:
            self._live.stop()

    def tell(self, name: str, event: list[Any]) -> None:
        """What the process of a run told (`Told`); `["start"]`: it was started."""
        kind, *what = event
        if kind == "start":
            self._left.remove(name)
            self._rows[name] = _Row()
        elif kind == "say":
            if not self._watched or what[0].startswith("warning"):
                print(f"{name}: {what[0]}", file=sys.stderr)
        else:
            self._rows[name].tell(kind, what)
        now = time.monotonic()
        if not self._watched and now - self._said >= self.PLAIN_SECONDS:
            self._said = now
            print(self._line(), file=sys.stderr)

    def finish(self, name: str, words: str, failed: bool = False) -> None:
        """A run is over; `words` say how it ended."""
        row = self._rows.pop(name)
        self._done.append((name, "failed" if failed else words))
        if not failed:
            self._took.append(row.elapsed())

    def seconds_left(self) -> float | None:
        """About how long the rest takes; None: nothing is known yet."""
        known = [*self._took]
        known += [row.elapsed() + left for row in self._rows.values() if (left := row.left())]
        if not known:
            return None
        usual = sum(known) / len(known)
        each = [
            max(usual - row.elapsed(), 0.0) if (left := row.left()) is None else left
            for row in self._rows.values()
        ]
        return max(*each, 0.0, (sum(each) + usual * len(self._left)) / self._jobs)

    def _count(self) -> str:
        said = f"{len(self._done)} done, {len(self._rows)} running, {len(self._left)} left"
        left = self.seconds_left()
        return f"{said}: about {duration(left)}" if left else said

    def _line(self) -> str:
        each = ", ".join(f"{name} {row}" for name, row in self._rows.items())
        return f"{self._count()}; now {each}" if each else self._count()

    def _table(self) -> Table:
        table = Table(caption=self._count(), caption_justify="left", box=None, pad_edge=False)
        table.add_column("run", overflow="fold")
        table.add_column("state", overflow="fold")
        for column in ("time", "left"):
            table.add_column(column, justify="right", no_wrap=True)
        for name, words in self._done[-self.MOST :]:
            table.add_row(name, words, "", "", style="dim")
        for name, row in self._rows.items():
            left = row.left()
            about = "" if left is None else f"about {duration(left)}"
            table.add_row(name, str(row), duration(row.elapsed()), about)
        for name in self._left[: self.MOST]:
            table.add_row(name, "is left", "", "", style="dim")
        if len(self._left) > self.MOST:
            table.add_row(f"and {len(self._left) - self.MOST} more", "", "", "", style="dim")
        return table


class _Row:
    """A run that is running."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._phase, self._total, self._step, self._note = "starts", 0, 0, ""
        self._end: float | None = None

    def tell(self, kind: str, what: list[Any]) -> None:
        if kind == "begin":
            self._phase, self._total, self._step = what
        elif kind == "update":
            self._step, note = what
            self._note = note or self._note
        elif kind == "left":
            self._end = time.monotonic() + what[0]

    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def left(self) -> float | None:
        return None if self._end is None else max(self._end - time.monotonic(), 0.0)

    def __str__(self) -> str:
        if not self._total:
            return self._phase
        return f"{self._phase} {self._step:,}/{self._total:,} {self._note}".rstrip()
