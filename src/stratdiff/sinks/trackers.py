"""What the trackers share: names of curves, going on after a resume, what a failure does.

metrics.jsonl is a run's record and is written first. A tracker is filled from it whenever a run is
opened, so it has every log point once, however often the run was cut off.
"""

import abc
import importlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stratdiff.errors import RunStopped, UserError, last_line
from stratdiff.files import write_text
from stratdiff.options import flat
from stratdiff.sinks.base import LogPoint
from stratdiff.sinks.jsonl import NAME, log_points
from stratdiff.sinks.progress import Reporter

PROJECT = "stratdiff"
"""Where runs go if the tracker's own variable names no project."""
CURVES, FILM = "curves.png", "video/before_after.gif"
"""The pictures of a finished run that a tracker shows, where they exist."""


def require(package: str, at_least: str) -> Any:
    """A tracker's library, if it is there and new enough.

    Raises:
        UserError: it is not.
    """
    try:
        found = metadata.version(package)
        state = f"is version {found} here"
        if _numbers(found) >= _numbers(at_least):
            return importlib.import_module(package)
    except metadata.PackageNotFoundError:
        state = "is not installed"
    except Exception as error:  # whatever a broken installation raises
        state = f"cannot be imported ({last_line(error)})"
    raise UserError(
        f"--track {package} needs the package {package}, {at_least} or newer, which {state}; "
        f"pip install 'stratdiff[{package}]' adds it."
    )


def _numbers(version: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version)[:2]]


def run_id(directory: Path) -> str:
    """By which trackers know a run again: drawn once, then kept in the run's directory.

    Raises:
        UserError: the file holds something else.
    """
    path = directory / "tracker_id"
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(r"[0-9a-f]{8}", text):
        raise UserError(
            f"{str(path)!r} holds {text[:40]!r}, which is no run id of 8 hexadecimal digits; put "
            "it back, or remove it and let the trackers begin another run."
        )
    return text


class Tracker(abc.ABC):
    """A `Sink` that hands a run to a tracker.

    A tracker that cannot be opened stops the run before it trains. One that fails later is left
    alone, with a warning: the run goes on, and `stratdiff resume` gives it what it missed.
    """

    title: ClassVar[str]
    """As `--track` names it."""
    instead: ClassVar[str] = "train without it"
    """What to do where the tracker cannot be opened."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self.directory, self.seeds = directory, tuple(config["seeds"])
        self.options = {key: _plain(value) for key, value in flat(config).items()}
        self.last = LogPoint("base", 0, 0, 0.0)
        """The newest log point."""
        self.finished = False
        self._failed = False

    @abc.abstractmethod
    def begin(self) -> None:
        """Open the tracker; what it has of an earlier part of the run may go or stay."""

    @abc.abstractmethod
    def write(self, point: LogPoint, values: list[tuple[int | None, str, float]]) -> None:
        """Add a log point: (seed, or None for the mean over seeds; `phase/metric`; value)."""

    @abc.abstractmethod
    def show(self, pictures: dict[str, Path]) -> None:
        """Add the pictures of a finished run."""

    @abc.abstractmethod
    def end(self) -> None:
        """Close the tracker; it may never have been opened."""

    def rewind(self, points: int, total_step: int) -> None:
        """Open the tracker, and give it the log points of metrics.jsonl that it lacks.

        Raises:
            RunStopped: it cannot be opened.
        """
        known = [*log_points(self.directory / NAME)]
        self.last = known[-1][0] if known else self.last
        try:
            self.begin()
            for point, metrics in known:
                self.write(point, self.values(point, metrics))
        except UserError:
            raise
        except Exception as error:
            raise RunStopped(
                f"--track {self.title} could not be opened ({_said(error)}); mend that, or "
                f"{self.instead}."
            ) from error

    def log(self, point: LogPoint, metrics: Mapping[str, np.ndarray]) -> None:
        """Hand over a log point."""
        self.last = point
        self._attempt(lambda: self.write(point, self.values(point, metrics)))

    def finish(self, summary: dict[str, Any]) -> None:
        """Hand over the final scores and the pictures."""
        scores = {
            when: np.array(found["per_seed"], float) for when, found in summary["score"].items()
        }
        point = self.last._replace(phase="final")
        self._attempt(lambda: self.write(point, self.values(point, scores)))
        paths = {"curves": self.directory / CURVES, "video": self.directory / FILM}
        pictures = {name: path for name, path in paths.items() if path.exists()}
        self._attempt(lambda: self.show(pictures))
        self.finished = True

    def close(self) -> None:
        """Let the tracker write what is left."""
        self._attempt(self.end)

    def values(
        self, point: LogPoint, metrics: Mapping[str, np.ndarray]
    ) -> list[tuple[int | None, str, float]]:
        """The finite values of a log point, as `write` takes them."""

        def each() -> Iterator[tuple[int | None, str, float]]:
            for name, values in metrics.items():
                array = np.asarray(values, float)
                yield None, f"{point.phase}/{name}", float(array.mean())
                if len(self.seeds) > 1:
                    for seed, value in zip(self.seeds, array.tolist(), strict=True):
                        yield seed, f"{point.phase}/{name}", value

        return [value for value in each() if np.isfinite(value[2])]

    def _attempt(self, what: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            what()
        except Exception as error:  # whatever the library raises: no run is lost for it
            self._failed = True
            Reporter().say(
                f"warning: --track {self.title} failed ({_said(error)}); the run goes on "
                f"without it, and `stratdiff resume {self.directory}` gives it what it missed."
            )


def named(values: list[tuple[int | None, str, float]]) -> dict[str, float]:
    """The values by name, for trackers in which all seeds are one run.

    The mean over seeds is `online/score`; that of seed 3 is `online_by_seed/score_3`, in a group of
    its own, because trackers group names by what stands before the slash.
    """
    out = {}
    for seed, name, value in values:
        group, _, metric = name.partition("/")
        out[name if seed is None else f"{group}_by_seed/{metric}_{seed}"] = value
    return out


def _said(error: Exception) -> str:
    """The kind of an error and what it says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(". ")


def _plain(value: Any) -> str | bool | int | float:
    """An option as every tracker can show it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, str | bool | int | float) else str(value)
