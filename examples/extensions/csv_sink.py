"""A sink that writes a run's metrics as one table, metrics.csv in the run's directory.

Put this folder on PYTHONPATH and name the class:

    stratdiff train --track csv_sink:CSV

There is a row for each log point and a column for each metric and seed, such as `q_mean/0` for seed
0. A cell is empty where a log point does not have the metric or its value is not finite.
"""

import csv
import os

import numpy as np

from stratdiff.errors import UserError


class CSV:
    """The `Sink`. The columns grow: each phase of a run logs metrics of its own."""

    def __init__(self, directory, config):
        self.path, self.seeds = directory / "metrics.csv", config["seeds"]
        self.columns = ["phase", "step", "time"]

    def rewind(self, points, total_step):
        """Keep the first `points` rows; the columns stay."""
        rows = self._read()
        if len(rows) < points:
            raise UserError(
                f"{str(self.path)!r} has {len(rows)} rows, but the run has {points} log points; "
                "put the file back, or remove the run and train again."
            )
        self._write(rows[:points])

    def log(self, point, metrics):
        """Add a row; the file is written again if the row has new columns."""
        row = {"phase": point.phase, "step": point.step, "time": round(point.seconds, 3)}
        for name, values in metrics.items():
            for seed, value in zip(self.seeds, np.asarray(values).tolist(), strict=True):
                row[f"{name}/{seed}"] = f"{value:.6g}" if np.isfinite(value) else ""
        new = [name for name in row if name not in self.columns]
        if new:
            rows = self._read()
            self.columns += new
            self._write([*rows, row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)

    def finish(self, summary):
        """The table is complete."""

    def close(self):
        """No file is open between log points."""

    def _read(self):
        """The rows, whose columns become those of the file."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        self.columns = list(reader.fieldnames or self.columns)
        return rows

    def _write(self, rows):
        """Write the file anew: beside it, then renamed."""
        partial = self.path.with_name(".metrics.csv.partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, self.path)
