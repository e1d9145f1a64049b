"""metrics.jsonl: one JSON object a line, a line a log point. Always written.

Every line has its own checksum, so a damaged one is found and named.
"""

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.errors import UserError
from stratdiff.files import summed, unsummed, writing
from stratdiff.reading import regular_file
from stratdiff.sinks.base import LogPoint

NAME = "metrics.jsonl"
_LONGEST = 2**22


class MetricsLog:
    """The `Sink`."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self.path = directory / NAME
        if self.path.exists():
            regular_file(self.path, "metrics")
        with writing(self.path):
            self._file = self.path.open("ab")

    def rewind(self, points: int, total_step: int) -> None:
        """Cut off the lines after the first `points`.

        Raises:
            UserError: the file has fewer lines than that, or one of them is damaged.
            RunStopped: it cannot be read or cut off.
        """
        with writing(self.path):
            whole = [*_lines(self.path)]
        if len(whole) < points:
            raise UserError(
                f"{str(self.path)!r} has {len(whole)} log points, its checkpoint was taken at "
                f"{points}: log points were lost; put the file back, or remove the run and train "
                "again."
            )
        with writing(self.path):
            self._file.truncate(sum(map(len, whole[:points])))
        read_metrics(self.path)  # a damaged line is found now, not at the end of the run

    def log(self, point: LogPoint, metrics: Mapping[str, np.ndarray]) -> None:
        """Add a line; values that are not finite are written as null.

        Raises:
            RunStopped: it cannot be written, or the run's directory was removed or moved.
        """
        record: dict[str, Any] = {
            "phase": point.phase,
            "step": point.step,
            "time": round(point.seconds, 3),
        }
        for name, values in metrics.items():
            record[name] = [_number(v) for v in np.asarray(values).tolist()]
        with writing(self.path):
            if not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
                raise FileNotFoundError(errno.ENOENT, "another file has taken its place")
            self._file.write((json.dumps(summed(record)) + "\n").encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def finish(self, summary: dict[str, Any]) -> None:
        """Nothing more to write."""

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # what could not be written stopped the run already
            self._file.close()


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The log points of a metrics.jsonl; a last line that was cut off is left out.

    Raises:
        UserError: a line is damaged, other than one that was cut off.
    """
    records: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(path), 1):
        try:
            records.append(_record(line))
        except (ValueError, OverflowError, RecursionError) as error:
            raise UserError(
                f"{str(path)!r}: line {number} is damaged ({error}); put the file back from a "
                "copy, or remove the run and train again."
            ) from error
    return records


def log_points(path: Path) -> Iterator[tuple[LogPoint, dict[str, np.ndarray]]]:
    """The log points of a metrics.jsonl as `log` was given them, to six digits.

    Raises:
        UserError: see `read_metrics`.
    """
    before, last = 0, LogPoint("", 0, 0, 0.0)
    for record in read_metrics(path):
        phase, step = record["phase"], record["step"]
        if phase != last.phase:  # the one before was logged at its end
            before = last.total_step
        last = LogPoint(phase, step, before + step, record["time"])
        lists = {name: v for name, v in record.items() if isinstance(v, list)}
        yield last, {name: np.array(v, float) for name, v in lists.items()}


def _lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a file; one that is longer than any of ours comes in pieces.

    Raises:
        UserError: it is no file.
    """
    with regular_file(path, "metrics").open("rb") as file:
        while line := file.readline(_LONGEST):
            if line.endswith(b"\n") or len(line) == _LONGEST:
                yield line


def _record(line: bytes) -> dict[str, Any]:
    """One log point; lines of earlier versions have no checksum.

    Raises:
        ValueError: it is damaged.
    """
    record = json.loads(line)
    if isinstance(record, dict) and "crc32" in record:
        record = unsummed(record)
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    phase, step, seconds = (record.get(key) for key in ("phase", "step", "time"))
    if not isinstance(phase, str) or type(step) is not int or step < 0 or not _is_number(seconds):
        raise ValueError("its phase, step or time is missing or wrong")
    for name, values in record.items():
        numbers = isinstance(values, list) and all(v is None or _is_number(v) for v in values)
        if name not in ("phase", "step", "time") and not numbers:
            raise ValueError(f"{name!r} is no list of numbers")
    return record


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
