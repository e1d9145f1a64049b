"""`stratdiff report`: one HTML page, its figures and tables as files, and the compact results."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from stratdiff.errors import UserError
from stratdiff.files import partial_of, writing
from stratdiff.report import compact, figures, results, tables
from stratdiff.report.comparison import Found, aggregates, blocks, notes
from stratdiff.report.panels import Figure
from stratdiff.report.runs import LeftOut, Run, Runs, title
from stratdiff.report.tables import Table, shown

MARK = '<meta name="generator" content="stratdiff report">'  # in templates/page.html


def report(paths: Sequence[str], out: str) -> tuple[list[Run], list[LeftOut]]:
    """Read the runs and write the report into `out`; the runs in it, and what was left out.

    Raises:
        UserError: a path is not there, no run is usable, or `out` holds something else. Nothing is
            written then.
        RunStopped: the disk is full, or fails otherwise; what was in `out` stays.
    """
    target = Path(out)
    check_out(target)
    runs, left_out = results.read(paths)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(target.resolve())
        partial.mkdir()
    except OSError as error:
        raise UserError(f"--out {out!r} cannot be made: {error}.") from error
    try:
        with writing(target):
            _write(runs, left_out, partial)
            _move(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return runs, left_out


def short_rows(runs: Runs) -> list[list[str]]:
    """For a terminal.

    Each row is: task, base, mean of the data, variant, before, after, last quarter, regret, over
    plain fine-tuning.
    """
    rows = []
    for *names, _, data, before, _, after, late, over, regret in tables.scores(runs).texts():
        task, base, variant = names
        means = (cell.partition(" [")[0] for cell in (before, after, late, regret))
        rows.append([task, base, data, variant, *means, over])
    return rows


def _write(runs: Runs, left_out: Sequence[LeftOut], folder: Path) -> None:
    from stratdiff.report import drawing  # loads Matplotlib

    found = [(block, aggregates(block, runs)) for block in blocks(runs)]
    each = [tables.scores(runs), tables.aggregate(found), tables.controls(found, runs)]
    each += [tables.falls(found, runs), tables.seeds(runs), tables.diagnostics(runs)]
    each += [tables.trends(runs), tables.cost(runs), tables.configurations(runs)]
    filled = [table for table in each if table.rows]
    drawn = figures.figures(runs, found)
    for name in ("figures", "tables"):
        (folder / name).mkdir()
    panels = {figure.name: drawing.save(figure, folder / "figures") for figure in drawn}
    texts = {"index.html": render(runs, left_out, found, filled, drawn, panels)}
    texts["results.json"] = compact.to_json(runs, left_out)
    for table in filled:
        texts[f"tables/{table.name}.csv"] = table.csv()
        texts[f"tables/{table.name}.md"] = table.markdown()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def check_out(target: Path) -> None:
    """Refuse a place where no report can be, or where something else is.

    Raises:
        UserError: it is a file, or a folder with files of others.
    """
    try:
        if target.exists() and not target.is_dir():
            raise UserError(f"--out {str(target)!r} is a file; give a directory.")
        page = target / "index.html"
        earlier = page.is_file() and MARK.encode() in page.read_bytes()[:4096]
        other = target.exists() and any(target.iterdir()) and not earlier
    except OSError as error:
        said = f"cannot be looked at ({error.strerror}); give another directory."
        raise UserError(f"--out {str(target)!r} {said}") from error
    if other:
        said = f"--out {str(target)!r} holds something that is no earlier report"
        raise UserError(f"{said}; give another directory, or empty it.")


def _move(partial: Path, target: Path) -> None:
    """Put the new files in place and take away those that an earlier report left."""
    wanted = [p.relative_to(partial) for p in sorted(partial.rglob("*")) if p.is_file()]
    wanted.sort(key=lambda path: path.name != "index.html")  # it tells whose folder this is
    for path in wanted:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial / path, target / path)
    ours = {Path("figures") / f"{n}.{kind}" for n in figures.NAMES for kind in ("svg", "png")}
    ours |= {Path("tables") / f"{n}.{kind}" for n in tables.NAMES for kind in ("csv", "md")}
    for path in ours.difference(wanted):
        (target / path).unlink(missing_ok=True)


def render(
    runs: Runs,
    left_out: Sequence[LeftOut],
    found: Found,
    tables: Sequence[Table],
    figures: Sequence[Figure],
    panels: Mapping[str, Sequence[Any]],
) -> str:
    """The page's HTML; `panels` has those of each figure, as `drawing.save` gives them."""
    lines: Any = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    environment = Environment(loader=PackageLoader("stratdiff.report"), autoescape=True, **lines)
    return environment.get_template("page.html").render(
        about=about(runs),
        notes=notes(runs),
        headline=[(b, a) for b, own in found for a in own if a.over_base.has_value],
        shown=shown,
        title=title,
        left_out=left_out,
        tables={table.name: table for table in tables},
        figures={figure.name: figure for figure in figures},
        panels=panels,
    )


def about(runs: Runs) -> dict[str, str]:
    """What was compared, in a few lines."""

    def listed(values: Iterable[Any]) -> str:
        return ", ".join(dict.fromkeys(str(v)[:200] for v in values if v))

    lines = {"Tasks": listed(r.task for r in runs)}
    for base in dict.fromkeys(r.base for r in runs):
        lines[f"{title(base)} variants"] = listed(r.variant for r in runs if r.base == base)
    per_run = [len(r.seeds) for r in runs]
    many = " to ".join(map(str, sorted({min(per_run), max(per_run)})))
    lines["Seeds"] = f"{many} a variant; {sum(per_run)} in {len(runs)} run{'s' * (len(runs) > 1)}"
    online = sorted({r.config.get("online_steps") or 0 for r in runs})
    lines["Environment steps"] = listed(f"{steps:,}" for steps in online if steps) or "none"
    lines["Device"] = listed(r.about.get("device") for r in runs)
    versions = [r.about["versions"] for r in runs]
    lines["Versions"] = "; ".join(
        f"{package} {listed(sorted({str(v.get(package, '?')) for v in versions}))}"
        for package in dict.fromkeys(p for v in versions for p in v)
    )
    lines["Source revision"] = listed(r.about.get("git_revision") for r in runs)
    return lines
