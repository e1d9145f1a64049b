"""metrics.jsonl: one JSON object a line, a line a log point. Always written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.errors import UserError
from stratdiff.sinks.base import LogPoint

NAME = "metrics.jsonl"


class MetricsLog:
    """The `Sink`."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self.path = directory / NAME
        self._file = self.path.open("ab")

    def rewind(self, points: int, total_step: int) -> None:
        """Cut off the lines after the first `points`.

        Raises:
            UserError: the file has fewer lines than that, or one of them is damaged.
        """
        lines = self.path.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        if len(whole) < points:
            raise UserError(
                f"{str(self.path)!r} has {len(whole)} log points, its checkpoint was taken at "
                f"{points}: log points were lost; put the file back, or remove the run and train "
                "again."
            )
        self._file.truncate(sum(map(len, whole[:points])))
        read_metrics(self.path)  # a damaged line is found now, not at the end of the run

    def log(self, point: LogPoint, metrics: Mapping[str, np.ndarray]) -> None:
        """Add a line; values that are not finite are written as null."""
        record: dict[str, Any] = {
            "phase": point.phase,
            "step": point.step,
            "time": round(point.seconds, 3),
        }
        for name, values in metrics.items():
            record[name] = [_number(v) for v in np.asarray(values).tolist()]
        self._file.write((json.dumps(record) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self, summary: dict[str, Any]) -> None:
        """Nothing more to write."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The log points of a metrics.jsonl; a last line that was cut off is left out.

    Raises:
        UserError: a line before the last one is damaged.
    """
    records = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError
        except ValueError as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise UserError(
                f"{str(path)!r}: line {number} is damaged; put the file back from a copy, or "
                "remove the run and train again."
            ) from error
        records.append(record)
    return records
