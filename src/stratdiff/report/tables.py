"""The report's tables, and their CSV and Markdown files."""

import csv
import io
import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from stratdiff.report.compact import DIAGNOSTICS
from stratdiff.report.comparison import CONTROLS, Block, Found, over_base, over_control
from stratdiff.report.runs import Run, Runs, by_task, clean, phases, title
from stratdiff.report.statistics import Estimate, bootstrap, early, finite_mean, late, mean

NAMES = ["scores", "aggregate", "controls", "falls", "seeds", "diagnostics", "trends"]
NAMES += ["cost", "runs"]

Cell = str | int | Estimate


class Table(NamedTuple):
    """Rows of words, counts and estimates; `digits` after the point of each column's numbers."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: Sequence[int]

    def texts(self) -> list[list[str]]:
        """Every cell as it is shown."""
        return [[shown(c, d) for c, d in zip(row, self.digits, strict=True)] for row in self.rows]

    def numeric(self) -> list[bool]:
        """For each column whether it holds numbers alone."""
        columns = zip(*self.rows, strict=True)
        return [not any(isinstance(cell, str) for cell in column) for column in columns]

    def csv(self) -> str:
        """Numbers in full; an estimate with an interval anywhere takes three columns."""

        def cells(cell: Cell, three: bool) -> list[str]:
            if not isinstance(cell, Estimate):
                return [str(cell)]
            return [f"{v:.6g}" if math.isfinite(v) else "" for v in cell[: 3 if three else 1]]

        columns = zip(*self.rows, strict=True)
        wide = [any(isinstance(c, Estimate) and c.has_interval for c in cs) for cs in columns]
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        heads = zip(self.columns, wide, strict=True)
        names = ([name, f"{name} low", f"{name} high"][: 3 if w else 1] for name, w in heads)
        out.writerow(chain.from_iterable(names))
        out.writerows(chain.from_iterable(map(cells, row, wide)) for row in self.rows)
        return text.getvalue()

    def markdown(self) -> str:
        """A GitHub table."""

        def line(cells: Sequence[str]) -> str:
            safe = [c.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for c in cells]
            return "| " + " | ".join(safe) + " |\n"

        ruler = ["---:" if numeric else "---" for numeric in self.numeric()]
        return line(self.columns) + line(ruler) + "".join(map(line, self.texts()))


def shown(cell: Cell, digits: int) -> str:
    """A cell as text; nothing to show is a dash."""
    if isinstance(cell, str):
        return cell or "—"
    if isinstance(cell, int):
        return f"{cell:,}"
    if not cell.has_value:
        return "—"
    value, low, high = (f"{v:.{digits}f}" for v in cell)
    return f"{value} [{low}, {high}]" if cell.has_interval else value


_RUN = ["task", "base", "variant"]


def _names(run: Run) -> list[Cell]:
    return [run.task, title(run.base), run.variant]


def scores(runs: Runs) -> Table:
    """Before → after, for each task and variant."""
    columns = [*_RUN, "seeds", "data", "before", "lowest", "after", "last quarter", "over base"]
    columns += ["regret"]
    rows = []
    for run in runs:
        means = [bootstrap(mean, [x]) for x in (run.before, run.lowest, run.after, run.late)]
        own = [*means, over_base(run, runs), bootstrap(mean, [run.regret])]
        rows.append([*_names(run), len(run.seeds), Estimate(run.data_score), *own])
    return Table("scores", columns, rows, [0, 0, 0, 0, *[1] * 6, 3])


def aggregate(found: Found) -> Table:
    """Over tasks."""
    columns = ["tasks", "base", "variant", "IQM after", "mean after", "over base", "P(better)"]
    columns += ["regret", "regret over base"]
    rows: list[list[Cell]] = []
    for b, own in found:
        rows += [[", ".join(b.tasks), title(b.base), *a] for a in own]
    return Table("aggregate", columns, rows, [0, 0, 0, 1, 1, 1, 2, 3, 3])


def controls(found: Found, runs: Runs) -> Table:
    """Regret over what needs no model, where there is more of it than the plain base.

    For each task, then over the tasks of each block.
    """
    return _over_controls("controls", "regret", 3, found, runs)


def falls(found: Found, runs: Runs) -> Table:
    """Likewise the lowest score online: how far an agent falls."""
    return _over_controls("falls", "lowest", 1, found, runs)


def _over_controls(name: str, values: str, digits: int, found: Found, runs: Runs) -> Table:
    blocks = [
        Block(base, (task,), {run.variant: [run] for run in group})
        for (base, task), group in by_task(runs).items()
    ]
    blocks += [block for block, _ in found if len(block.tasks) > 1]
    rows: list[list[Cell]] = []
    bases = [block.base for block in blocks]
    for b in sorted(blocks, key=lambda block: bases.index(block.base)):
        over = {
            variant: [over_control(own, runs, kind, values) for kind in CONTROLS]
            for variant, own in b.variants.items()
        }
        if any(e.has_value for estimates in over.values() for e in estimates[1:]):
            tasks = ", ".join(b.tasks)
            rows += [[tasks, title(b.base), variant, *e] for variant, e in over.items()]
    columns = ["tasks", "base", "variant", *(f"over {c}" for c in CONTROLS)]
    return Table(name, columns, rows, [0, 0, 0, *[digits] * len(CONTROLS)])


def seeds(runs: Runs) -> Table:
    """Every single number."""
    rows: list[list[Cell]] = []
    for run in runs:
        each = (run.before, run.lowest, run.after, run.late, run.regret)
        for seed, *values in zip(run.seeds, *each, strict=True):
            rows.append([*_names(run), seed, *(Estimate(float(v)) for v in values)])
    columns = [*_RUN, "seed", "before", "lowest", "after", "last quarter", "regret"]
    return Table("seeds", columns, rows, [0, 0, 0, 0, 1, 1, 1, 1, 3])


def diagnostics(runs: Runs) -> Table:
    """Means over the online phase."""
    columns = [*_RUN, "exchange fraction", "alignment AUC", "threshold", "mean Q", "spread"]
    rows = []
    for run in runs:
        found = {key: run.diagnostics[key] for key in DIAGNOSTICS if key in run.diagnostics}
        means = {k: bootstrap(mean, [finite_mean(v, axis=0)]) for k, v in found.items()}
        if found:
            known = [means.get(key, Estimate()) for key in DIAGNOSTICS]
            rows.append([*_names(run), *known, Estimate(run.spread)])
    return Table("diagnostics", columns, rows, [0, 0, 0, 3, 3, 2, 1, 1])


def trends(runs: Runs) -> Table:
    """The exchange fraction and the AUC in the first and last quarter of the online phase.

    The paper takes exchanges that do not fall as a sign of failure. Batches of one origin alone,
    as in the warm-up, are left out: they have no AUC, and half of their rows change sides with
    rho = 0.5 whatever the score. Differences are paired by seed.
    """
    watched = {"exchange_fraction": "exchange", "alignment_auc": "AUC"}
    rows: list[list[Cell]] = []
    for run in runs:
        if not run.diagnostics.keys() >= watched.keys():
            continue
        steps, both = run.diagnostics["step"], np.isfinite(run.diagnostics["alignment_auc"])
        row: list[Cell] = []
        for key in watched:
            values = np.where(both, run.diagnostics[key], np.nan)
            first, last = early(steps, values), late(steps, values)
            change = bootstrap(mean, [last - first])
            row += [*(Estimate(bootstrap(mean, [x]).value) for x in (first, last)), change]
        rows.append([*_names(run), *row])
    kinds = ("first", "last", "change")
    columns = [*_RUN, *(f"{name} {kind}" for name in watched.values() for kind in kinds)]
    return Table("trends", columns, rows, [0, 0, 0, *[3] * 6])


def cost(runs: Runs) -> Table:
    """Speed and time."""
    order = phases(runs)
    rows: list[list[Cell]] = []
    for run in runs:
        seconds, speed = run.about["seconds"], run.about["updates_per_second"]
        rates = [Estimate(float(speed.get(p, math.nan))) for p in ("base", "online")]
        minutes = [Estimate(seconds.get(p, math.nan) / 60) for p in order]
        total = Estimate(sum(seconds.values()) / 60) if seconds else Estimate()
        rows.append([*_names(run), len(run.seeds), *rates, *minutes, total])
    columns = [*_RUN, "seeds", "offline updates/s", "online updates/s"]
    columns += [f"{phase} min" for phase in (*map(clean, order), "total")]
    return Table("cost", columns, rows, [0] * 6 + [1] * (len(order) + 1))


def configurations(runs: Runs) -> Table:
    """What was run, on what."""

    def say(value: Any) -> str:
        return "" if value is None else str(value)[:80]

    columns = [*_RUN, "score", "seeds", "offline steps", "online steps", "UTD", "eval episodes"]
    columns += ["data fingerprint", "device", "revision"]
    options = ("offline_steps", "online_steps", "utd", "eval_episodes")
    rows = []
    for run in runs:
        known = [run.config.get(option) for option in options]
        known += [run.about["dataset"].get("fingerprint")]
        known += [run.about.get("device"), run.about.get("git_revision")]
        ran = [title(run.score), " ".join(map(str, run.seeds))]
        rows.append([*_names(run), *ran, *map(say, known)])
    return Table("runs", columns, rows, [0] * 12)
