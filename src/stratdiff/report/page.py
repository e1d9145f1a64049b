"""`stratdiff report`: one HTML page, its figures and tables as files, and the compact results."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stratdiff.errors import UserError
from stratdiff.report import compact, figures, results, tables
from stratdiff.report.comparison import aggregates, blocks, over_base
from stratdiff.report.render import render
from stratdiff.report.runs import LeftOut, Run
from stratdiff.report.statistics import Estimate
from stratdiff.report.titles import title

MARK = '<meta name="generator" content="stratdiff report">'  # in templates/page.html


def report(paths: Sequence[str], out: str) -> tuple[list[Run], list[LeftOut]]:
    """Read the runs and write the report into `out`; the runs in it, and what was left out.

    Raises:
        UserError: a path is not there, no run is usable, or `out` holds something else. Nothing is
            written then.
    """
    target = Path(out)
    _check_out(target)
    runs, left_out = results.read(paths)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UserError(f"--out {out!r} cannot be made: {error}.") from error
    try:
        _write(runs, left_out, partial)
        _move(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return runs, left_out


def short_rows(runs: Sequence[Run]) -> list[list[str]]:
    """For a terminal: task, base, variant, before, after, over the plain base."""
    return [
        [
            run.task,
            title(run.base),
            run.variant,
            *(tables.shown(Estimate(float(np.mean(x))), 1) for x in (run.before, run.after)),
            tables.shown(over_base(run, runs), 1),
        ]
        for run in runs
    ]


def _write(runs: Sequence[Run], left_out: Sequence[LeftOut], folder: Path) -> None:
    from stratdiff.report import drawing  # loads Matplotlib

    found = [(block, aggregates(block, runs)) for block in blocks(runs)]
    each = [tables.scores(runs), tables.aggregate(found), tables.seeds(runs)]
    each += [tables.diagnostics(runs), tables.cost(runs), tables.configurations(runs)]
    filled = [table for table in each if table.rows]
    drawn = figures.figures(runs, found)
    page = render(runs, left_out, found, filled, drawn, drawing.panel_svgs)
    for name in ("figures", "tables"):
        (folder / name).mkdir()
    for figure in drawn:
        drawing.save(figure, folder / "figures")
    for table in filled:
        (folder / "tables" / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        (folder / "tables" / f"{table.name}.md").write_text(table.markdown(), encoding="utf-8")
    text = compact.to_json(runs, left_out)
    (folder / "results.json").write_text(text, encoding="utf-8")
    (folder / "index.html").write_text(page, encoding="utf-8")


def _check_out(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"--out {str(target)!r} is a file; give a directory.")
    page = target / "index.html"
    earlier = page.is_file() and MARK.encode() in page.read_bytes()[:4096]
    if any(target.iterdir()) and not earlier:
        raise UserError(
            f"--out {str(target)!r} holds something that is no earlier report; give another "
            "directory, or empty it."
        )


def _move(partial: Path, target: Path) -> None:
    """Put the new files in place and take away those that an earlier report left."""
    wanted = [p.relative_to(partial) for p in sorted(partial.rglob("*")) if p.is_file()]
    for path in wanted:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial / path, target / path)
    ours = [Path("figures") / f"{n}.{kind}" for n in figures.NAMES for kind in ("svg", "png")]
    ours += [Path("tables") / f"{n}.{kind}" for n in tables.NAMES for kind in ("csv", "md")]
    for path in ours:
        if path not in wanted:
            (target / path).unlink(missing_ok=True)
