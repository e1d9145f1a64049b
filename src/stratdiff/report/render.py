"""The report's page: what its templates are filled with."""

from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from stratdiff.report.comparison import Aggregate, Block, notes
from stratdiff.report.panels import Figure
from stratdiff.report.runs import LeftOut, Run
from stratdiff.report.tables import Table, shown
from stratdiff.report.titles import title


def render(
    runs: Sequence[Run],
    left_out: Sequence[LeftOut],
    found: Sequence[tuple[Block, Sequence[Aggregate]]],
    tables: Sequence[Table],
    figures: Sequence[Figure],
    panel_svgs: Callable[[Figure], list[tuple[str, str, str]]],
) -> str:
    """The page's HTML; `panel_svgs` gives each panel's title, viewBox and SVG content."""
    environment = Environment(
        loader=PackageLoader("stratdiff.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html").render(
        about=about(runs),
        notes=notes(runs),
        headline=[(b, a) for b, own in found for a in own if a.over_base.has_value],
        shown=shown,
        title=title,
        left_out=left_out,
        tables={table.name: table for table in tables},
        figures={figure.name: figure for figure in figures},
        panel_svgs=panel_svgs,
    )


def about(runs: Sequence[Run]) -> dict[str, str]:
    """What was compared, in a few lines."""

    def listed(values: Sequence[Any]) -> str:
        return ", ".join(dict.fromkeys(str(v)[:200] for v in values if v))

    lines = {"Tasks": listed([r.task for r in runs])}
    for base in dict.fromkeys(r.base for r in runs):
        lines[f"{title(base)} variants"] = listed([r.variant for r in runs if r.base == base])
    per_run = sorted({len(r.seeds) for r in runs})
    many = f"{per_run[0]} to {per_run[-1]}" if len(per_run) > 1 else str(per_run[0])
    total = sum(len(r.seeds) for r in runs)
    lines["Seeds"] = f"{many} a variant; {total} in {len(runs)} run{'s' * (len(runs) > 1)}"
    online = sorted({r.config.get("online_steps") or 0 for r in runs})
    lines["Environment steps"] = listed([f"{steps:,}" for steps in online if steps]) or "none"
    lines["Device"] = listed([r.about.get("device") for r in runs])
    packages = list(dict.fromkeys(p for r in runs for p in r.about["versions"]))
    lines["Versions"] = "; ".join(
        f"{p} {listed(sorted({str(r.about['versions'].get(p, '?')) for r in runs}))}"
        for p in packages
    )
    lines["Source revision"] = listed([r.about.get("git_revision") for r in runs])
    return lines
