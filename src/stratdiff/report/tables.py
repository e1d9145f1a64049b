"""The report's tables, and their CSV and Markdown files."""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from stratdiff.report.compact import DIAGNOSTICS, column_means
from stratdiff.report.comparison import Aggregate, Block, over_base
from stratdiff.report.runs import Run, phases
from stratdiff.report.statistics import Estimate, bootstrap, mean
from stratdiff.report.titles import clean, title

NAMES = ("scores", "aggregate", "seeds", "diagnostics", "cost", "runs")

Cell = str | int | Estimate


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of words, counts and estimates; `digits` after the point of each column's numbers."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: Sequence[int]

    def texts(self) -> list[list[str]]:
        """Every cell as it is shown."""
        return [
            [shown(cell, digits) for cell, digits in zip(row, self.digits, strict=True)]
            for row in self.rows
        ]

    def numeric(self) -> list[bool]:
        """For each column whether it holds numbers alone."""
        return [not any(isinstance(row[i], str) for row in self.rows) for i in self._indices]

    def csv(self) -> str:
        """Numbers in full; an estimate with an interval anywhere takes three columns."""
        wide = [
            any(isinstance(cell, Estimate) and cell.has_interval for cell in column)
            for column in ([row[i] for row in self.rows] for i in self._indices)
        ]

        def cells(cell: Cell, three: bool) -> list[str]:
            if not isinstance(cell, Estimate):
                return [str(cell)]
            numbers = (cell.value, cell.low, cell.high) if three else (cell.value,)
            return [f"{v:.6g}" if math.isfinite(v) else "" for v in numbers]

        def names(name: str, three: bool) -> list[str]:
            return [name, f"{name} low", f"{name} high"] if three else [name]

        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        out.writerow(chain.from_iterable(map(names, self.columns, wide)))
        for row in self.rows:
            out.writerow(chain.from_iterable(map(cells, row, wide)))
        return text.getvalue()

    def markdown(self) -> str:
        """A GitHub table."""

        def line(cells: Sequence[str]) -> str:
            safe = [c.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for c in cells]
            return "| " + " | ".join(safe) + " |\n"

        ruler = ["---:" if numeric else "---" for numeric in self.numeric()]
        return line(self.columns) + line(ruler) + "".join(map(line, self.texts()))

    @property
    def _indices(self) -> range:
        return range(len(self.columns))


def shown(cell: Cell, digits: int) -> str:
    """A cell as text; nothing to show is a dash."""
    if isinstance(cell, str):
        return cell or "—"
    if isinstance(cell, int):
        return f"{cell:,}"
    if not cell.has_value:
        return "—"
    text = f"{cell.value:.{digits}f}"
    if cell.has_interval:
        text += f" [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
    return text


def _names(run: Run) -> list[Cell]:
    return [run.task, title(run.base), run.variant]


def scores(runs: Sequence[Run]) -> Table:
    """Before → after, for each task and variant."""
    return Table(
        "scores",
        ["task", "base", "variant", "seeds", "before", "after", "change", "over base", "regret"],
        [
            [
                *_names(run),
                len(run.seeds),
                bootstrap(mean, [run.before]),
                bootstrap(mean, [run.after]),
                bootstrap(mean, [run.after - run.before]),
                over_base(run, runs),
                bootstrap(mean, [run.regret]),
            ]
            for run in runs
        ],
        [0, 0, 0, 0, 1, 1, 1, 1, 3],
    )


def aggregate(found: Sequence[tuple[Block, Sequence[Aggregate]]]) -> Table:
    """Over tasks."""
    columns = ["base", "variant", "tasks", "IQM after", "mean after", "over base"]
    return Table(
        "aggregate",
        [*columns, "P(better)", "regret", "which tasks"],
        [
            [
                title(block.base),
                a.variant,
                len(block.tasks),
                *(a.iqm, a.mean, a.over_base, a.improvement, a.regret),
                ", ".join(block.tasks),
            ]
            for block, own in found
            for a in own
        ],
        [0, 0, 0, 1, 1, 1, 2, 3, 0],
    )


def seeds(runs: Sequence[Run]) -> Table:
    """Every single number."""
    return Table(
        "seeds",
        ["task", "base", "variant", "seed", "before", "after", "regret"],
        [
            [*_names(run), seed, *(Estimate(float(v)) for v in values)]
            for run in runs
            for seed, *values in zip(run.seeds, run.before, run.after, run.regret, strict=True)
        ],
        [0, 0, 0, 0, 1, 1, 3],
    )


def diagnostics(runs: Sequence[Run]) -> Table:
    """Means over the online phase."""

    def whole(run: Run, key: str) -> Estimate:
        values = run.diagnostics.get(key)
        if values is None or not len(values):
            return Estimate()
        return bootstrap(mean, [np.array(column_means(values))])

    return Table(
        "diagnostics",
        ["task", "base", "variant", "exchange fraction", "alignment AUC", "threshold", "mean Q"],
        [
            [*_names(run), *(whole(run, key) for key in DIAGNOSTICS)]
            for run in runs
            if any(key in run.diagnostics for key in DIAGNOSTICS)
        ],
        [0, 0, 0, 3, 3, 2, 1],
    )


def cost(runs: Sequence[Run]) -> Table:
    """Speed and time."""
    order = phases(runs)
    rows: list[list[Cell]] = []
    for run in runs:
        seconds, speed = run.about["seconds"], run.about["updates_per_second"]
        minutes = [Estimate(seconds[p] / 60) if p in seconds else Estimate() for p in order]
        total = Estimate(sum(seconds.values()) / 60) if seconds else Estimate()
        rates = [Estimate(float(speed.get(p, math.nan))) for p in ("base", "online")]
        rows.append([*_names(run), len(run.seeds), *rates, *minutes, total])
    return Table(
        "cost",
        ["task", "base", "variant", "seeds", "offline updates/s", "online updates/s"]
        + [f"{clean(phase)} min" for phase in order]
        + ["total min"],
        rows,
        [0] * 6 + [1] * (len(order) + 1),
    )


def configurations(runs: Sequence[Run]) -> Table:
    """What was run, on what."""

    def say(value: Any) -> str:
        return "" if value is None else str(value)[:80]

    columns = "task,base,variant,score,seeds,offline steps,online steps,UTD,eval episodes"
    options = ("offline_steps", "online_steps", "utd", "eval_episodes")
    return Table(
        "runs",
        [*columns.split(","), "data fingerprint", "device", "revision"],
        [
            [
                *_names(run),
                title(run.score),
                " ".join(map(str, run.seeds)),
                *(say(run.config.get(option)) for option in options),
                say(run.about["dataset"].get("fingerprint")),
                say(run.about.get("device")),
                say(run.about.get("git_revision")),
            ]
            for run in runs
        ],
        [0] * 12,
    )
