"""`stratdiff report`: one HTML page, its figures and tables as files, and the compact results."""

import csv
import dataclasses
import html
import io
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.errors import UserError
from stratdiff.report import figures, results
from stratdiff.report.figures import Figure
from stratdiff.report.results import BASES, Block, LeftOut, Run
from stratdiff.report.statistics import Estimate, bootstrap, improvement, iqm, mean

MARK = '<meta name="generator" content="stratdiff report">'
_FIGURES = ["main", "offline", "aggregate", "improvement", "ablation", "sensitivity"]
_FIGURES += ["exchange", "auc", "alignment", "q_values", "cost"]
_TABLES = ("scores", "aggregate", "seeds", "diagnostics", "cost", "runs")

Cell = str | int | Estimate


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of words, counts and estimates; `digits` after the point of each column's numbers."""

    name: str
    heading: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: Sequence[int]

    def texts(self) -> list[list[str]]:
        """Every cell as it is shown."""
        return [
            [shown(cell, digits) for cell, digits in zip(row, self.digits, strict=True)]
            for row in self.rows
        ]

    def csv(self) -> str:
        """Numbers in full; an estimate with an interval anywhere takes three columns."""
        wide = [
            any(isinstance(row[i], Estimate) and row[i].has_interval for row in self.rows)  # type: ignore[union-attr]
            for i in range(len(self.columns))
        ]
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        head: list[str] = []
        for name, three in zip(self.columns, wide, strict=True):
            head += [name, f"{name} low", f"{name} high"] if three else [name]
        out.writerow(head)
        for row in self.rows:
            cells: list[str] = []
            for cell, three in zip(row, wide, strict=True):
                if isinstance(cell, Estimate):
                    numbers = (cell.value, cell.low, cell.high) if three else (cell.value,)
                    cells += [f"{v:.6g}" if math.isfinite(v) else "" for v in numbers]
                else:
                    cells += [str(cell)]
            out.writerow(cells)
        return text.getvalue()

    def markdown(self) -> str:
        """A GitHub table."""

        def line(cells: Sequence[str]) -> str:
            safe = [c.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for c in cells]
            return "| " + " | ".join(safe) + " |\n"

        ruler = ["---:" if self._numeric(i) else "---" for i in range(len(self.columns))]
        return line(self.columns) + line(ruler) + "".join(map(line, self.texts()))

    def _numeric(self, column: int) -> bool:
        return not any(isinstance(row[column], str) for row in self.rows)

    def html(self) -> str:
        """In a box of its own that scrolls where the screen is too narrow."""

        def row(kind: str, cells: Sequence[str]) -> str:
            marked = [
                f"<{kind}{' class=n' if self._numeric(i) else ''}>{html.escape(cell)}</{kind}>"
                for i, cell in enumerate(cells)
            ]
            return f"<tr>{''.join(marked)}</tr>\n"

        return (
            f'<div class="scroll" tabindex="0" role="region" '
            f'aria-label="{html.escape(self.heading)}"><table>\n<thead>'
            + row("th", self.columns)
            + "</thead>\n<tbody>"
            + "".join(row("td", cells) for cells in self.texts())
            + f"</tbody></table></div>\n<p class=read>{html.escape(self.caption)} "
            f'<a href="tables/{self.name}.csv">CSV</a> <a href="tables/{self.name}.md">Markdown</a>'
            "</p>\n"
        )


def shown(cell: Cell, digits: int) -> str:
    """A cell as text; nothing to show is a dash."""
    if isinstance(cell, str):
        return cell or "—"
    if isinstance(cell, int):
        return f"{cell:,}"
    if not math.isfinite(cell.value):
        return "—"
    text = f"{cell.value:.{digits}f}"
    if cell.has_interval:
        text += f" [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
    return text


def short_rows(runs: Sequence[Run]) -> list[list[str]]:
    """For a terminal: task, base, variant, before, after, over the plain base."""
    return [
        [
            run.task,
            BASES[run.base],
            run.variant,
            *(shown(Estimate(float(np.mean(x))), 1) for x in (run.before, run.after)),
            shown(_over_base(run, runs), 1),
        ]
        for run in runs
    ]


def _over_base(run: Run, runs: Sequence[Run]) -> Estimate:
    other = results.reference(run, runs)
    if other is None:
        return Estimate()
    return bootstrap(mean, [results.paired_difference(run, other)])


def scores_table(runs: Sequence[Run]) -> Table:
    """Before → after, for each task and variant."""
    rows: list[list[Cell]] = [
        [
            run.task,
            BASES[run.base],
            run.variant,
            len(run.seeds),
            bootstrap(mean, [run.before]),
            bootstrap(mean, [run.after]),
            bootstrap(mean, [run.after - run.before]),
            _over_base(run, runs),
            bootstrap(mean, [run.regret]),
        ]
        for run in runs
    ]
    columns = ["task", "base", "variant", "seeds", "before", "after", "change", "over base"]
    return Table(
        "scores",
        "Before → after",
        "Score before the first environment step and at the end, mean over the seeds with its 95 % "
        "bootstrap interval. Change: after minus before. Over base: after minus the plain base's, "
        "paired by seed. Regret: mean of 1 - score / 100 over the online phase; lower is better. "
        "One seed has no interval.",
        [*columns, "regret"],
        rows,
        [0, 0, 0, 0, 1, 1, 1, 1, 3],
    )


@dataclasses.dataclass(frozen=True)
class _Aggregate:
    """A variant over the tasks of a block."""

    block: Block
    variant: str
    iqm: Estimate
    mean: Estimate
    over_base: Estimate
    improvement: Estimate
    regret: Estimate


def _aggregates(runs: Sequence[Run]) -> list[_Aggregate]:
    out = []
    for block in results.blocks(runs):
        for name, own in block.variants.items():
            pairs = [(run, other) for run in own if (other := results.reference(run, runs))]
            over, better = Estimate(), Estimate()
            if len(pairs) == len(own):
                over = bootstrap(mean, [results.paired_difference(*pair) for pair in pairs])
                better = bootstrap(improvement, [r.after for pair in pairs for r in pair])
            after = [r.after for r in own]
            worse = bootstrap(mean, [r.regret for r in own])
            out.append(
                _Aggregate(
                    block, name, bootstrap(iqm, after), bootstrap(mean, after), over, better, worse
                )
            )
    return out


def aggregate_table(found: Sequence[_Aggregate]) -> Table:
    """Over tasks."""
    rows: list[list[Cell]] = [
        [
            BASES[a.block.base],
            a.variant,
            len(a.block.tasks),
            a.iqm,
            a.mean,
            a.over_base,
            a.improvement,
            a.regret,
            ", ".join(a.block.tasks),
        ]
        for a in found
    ]
    columns = ["base", "variant", "tasks", "IQM after", "mean after", "over base"]
    return Table(
        "aggregate",
        "Over all tasks",
        "Only tasks that every variant of the comparison has. IQM: mean of the middle half of all "
        "runs. Over base: mean difference, paired by seed. P(better): probability that a run of "
        "the variant beats one of the plain base on the same task, ties half, mean over the tasks. "
        "Intervals: 95 % bootstrap, seeds drawn within each task.",
        [*columns, "P(better)", "regret", "which tasks"],
        rows,
        [0, 0, 0, 1, 1, 1, 2, 3, 0],
    )


def seeds_table(runs: Sequence[Run]) -> Table:
    """Every single number."""
    rows: list[list[Cell]] = [
        [run.task, BASES[run.base], run.variant, seed, *(Estimate(float(v)) for v in values)]
        for run in runs
        for seed, *values in zip(run.seeds, run.before, run.after, run.regret, strict=True)
    ]
    columns = ["task", "base", "variant", "seed", "before", "after", "regret"]
    caption = "The scores of every seed."
    return Table("seeds", "Every seed", caption, columns, rows, [0, 0, 0, 0, 1, 1, 3])


def diagnostics_table(runs: Sequence[Run]) -> Table:
    """Means over the online phase."""

    def whole(run: Run, key: str) -> Estimate:
        values = run.diagnostics.get(key)
        if values is None or not len(values):
            return Estimate()
        return bootstrap(mean, [np.array(results.column_means(values))])

    keys = ("exchange_fraction", "alignment_auc", "alignment_threshold", "q_mean")
    rows: list[list[Cell]] = [
        [run.task, BASES[run.base], run.variant, *(whole(run, key) for key in keys)]
        for run in runs
        if any(key in run.diagnostics for key in keys)
    ]
    return Table(
        "diagnostics",
        "Diagnostics",
        "Means over the online phase, then over the seeds, with 95 % bootstrap intervals. Exchange "
        "fraction 0.5 and AUC 0.5 are what chance gives.",
        ["task", "base", "variant", "exchange fraction", "alignment AUC", "threshold", "mean Q"],
        rows,
        [0, 0, 0, 3, 3, 2, 1],
    )


def cost_table(runs: Sequence[Run]) -> Table:
    """Speed and time."""
    phases = ("base", "behaviour", "support", "energy", "online")
    rows: list[list[Cell]] = []
    for run in runs:
        seconds, speed = run.about["seconds"], run.about["updates_per_second"]
        minutes = [Estimate(seconds[p] / 60) if p in seconds else Estimate() for p in phases]
        total = Estimate(sum(seconds.values()) / 60) if seconds else Estimate()
        rates = [Estimate(float(speed.get(p, math.nan))) for p in ("base", "online")]
        names = [run.task, BASES[run.base], run.variant]
        rows.append([*names, len(run.seeds), *rates, *minutes, total])
    return Table(
        "cost",
        "Cost",
        "Updates/s: those of all seeds together over the phase's wall time, evaluations included. "
        "Minutes: wall time of each phase; those that variants share count in each of them.",
        ["task", "base", "variant", "seeds", "offline updates/s", "online updates/s"]
        + [f"{phase} min" for phase in phases]
        + ["total min"],
        rows,
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1],
    )


def runs_table(runs: Sequence[Run]) -> Table:
    """What was run, on what."""

    def say(value: Any) -> str:
        return "" if value is None else str(value)[:80]

    rows: list[list[Cell]] = [
        [
            run.task,
            BASES[run.base],
            run.variant,
            run.method,
            " ".join(map(str, run.seeds)),
            say(run.config.get("offline_steps")),
            say(run.config.get("online_steps")),
            say(run.config.get("utd")),
            say(run.config.get("eval_episodes")),
            say(run.about["dataset"].get("fingerprint")),
            say(run.about.get("device")),
            say(run.about.get("git_revision")),
        ]
        for run in runs
    ]
    columns = "task,base,variant,method,seeds,offline steps,online steps,UTD,eval episodes"
    return Table(
        "runs",
        "Runs",
        "The whole configuration of every run is in results.json.",
        [*columns.split(","), "data fingerprint", "device", "revision"],
        rows,
        [0] * 12,
    )


def _comparison_figures(
    runs: Sequence[Run], found: Sequence[_Aggregate], looks: dict[str, figures.Style]
) -> dict[str, Figure | None]:
    """Figures of estimates: aggregate, improvement, ablation, sensitivity."""
    each = list({id(a.block): a.block for a in found}.values())
    mine = {id(b): [a for a in found if a.block is b] for b in each}
    titles = {id(b): figures.block_title(b) for b in each}
    aggregate: list[Any] = []
    better: list[Any] = []
    for block in each:
        own, title = mine[id(block)], titles[id(block)]
        aggregate.append((title, "IQM of scores after", None, [(a.variant, a.iqm) for a in own]))
        aggregate.append((title, "mean score after", None, [(a.variant, a.mean) for a in own]))
        regrets = [(a.variant, a.regret) for a in own if math.isfinite(a.regret.value)]
        aggregate.append((title, "regret (lower is better)", None, regrets))
        rows = [(a.variant, a.improvement) for a in own if math.isfinite(a.improvement.value)]
        better.append((title, f"P(better than plain {BASES[block.base]})", 0.5, rows))
    ablation: list[Any] = []
    for base in dict.fromkeys(run.base for run in runs):
        label = f"score over plain {BASES[base]}"
        for block in (b for b in each if b.base == base and len(b.tasks) > 1):
            over = [(a.variant, a.over_base) for a in mine[id(block)]]
            over = [(name, e) for name, e in over if math.isfinite(e.value)]
            ablation.append((titles[id(block)], label, 0.0, over))
        for (_, task), group in results.panels([r for r in runs if r.base == base]).items():
            rows = [(run.variant, _over_base(run, runs)) for run in group]
            rows = [(name, e) for name, e in rows if math.isfinite(e.value)]
            ablation.append((f"{task}\n{BASES[base]}", label, 0.0, rows))
    sets = "; ".join(f"{BASES[b.base]}: {', '.join(b.tasks)}" for b in each if len(b.tasks) > 1)
    said = f" Tasks: {sets}." if sets else ""
    single = " One seed: no interval." if all(len(r.seeds) == 1 for r in runs) else ""
    swept = results.sweeps(runs)
    levels = []
    for sweep in swept:
        others = [results.reference(run, runs) for _, run in sweep.points]
        other = next((o for o in others if o is not None), None)
        levels.append(bootstrap(mean, [other.after]) if other else None)
    return {
        "aggregate": figures.dots(
            "aggregate",
            "Scores and regret",
            "Scores at the end and regret over all tasks of a comparison. Bars: 95 % bootstrap "
            f"intervals, seeds drawn within each task.{single}{said}",
            aggregate,
            looks,
        ),
        "improvement": figures.dots(
            "improvement",
            "Probability of improvement",
            "Probability that a run of the variant ends higher than one of the plain base on the "
            "same task, ties half, mean over the tasks. Dashed: no difference. Bars: 95 % "
            f"bootstrap intervals, seeds drawn within each task.{single}{said}",
            better,
            looks,
        ),
        "ablation": figures.dots(
            "ablation",
            "Change over the plain base",
            "Score at the end minus that of the plain base, paired by seed. Dashed: no difference. "
            f"Bars: 95 % bootstrap intervals of the mean; one that crosses the line shows "
            f"no clear difference.{single}{said}",
            ablation,
            looks,
        ),
        "sensitivity": figures.sensitivity(swept, levels, looks),
    }


def _all_figures(runs: Sequence[Run], found: Sequence[_Aggregate]) -> dict[str, Figure]:
    looks = figures.styles(runs)
    drawn, dropped = figures.choose(runs)
    exchange = (
        "exchange",
        "Exchange fraction",
        "Share of a batch that changed sides: offline rows treated as online-like and the other "
        "way round. Dashed: 0.5, what a coin does.",
        "exchange fraction",
    )
    auc = (
        "auc",
        "Alignment AUC",
        "Probability that a row collected online has a higher alignment score than one of the "
        "offline data. Dashed: 0.5, the score does not tell them apart.",
        "AUC",
    )
    each = {
        "main": figures.curves(drawn, looks, "online", dropped),
        "offline": figures.curves(drawn, looks, "base", dropped),
        **_comparison_figures(runs, found, looks),
        "exchange": figures.diagnostic(drawn, looks, "exchange_fraction", exchange, 0.5),
        "auc": figures.diagnostic(drawn, looks, "alignment_auc", auc, 0.5),
        "alignment": figures.alignment(drawn),
        "q_values": figures.q_values(drawn, looks),
        "cost": figures.cost(runs),
    }
    return {name: figure for name, figure in each.items() if figure is not None}


def _figure_html(figure: Figure) -> str:
    keys = []
    for key in figure.legend:
        s = key.style
        if key.hatch is not None:
            mark = f'<rect x="3" y="2" width="20" height="10" fill="{s.color}"/>'
            if key.hatch:
                mark += '<path d="M5 12L11 2M12 12L18 2" stroke="#fff"/>'
        else:
            dash = {"-": "", "--": "6 3", ":": "2 3"}.get(s.dash) if isinstance(s.dash, str) else (
                " ".join(str(2 * d) for d in s.dash[1])
            )  # fmt: skip
            mark = (
                f'<path d="M0 7H26" stroke="{s.color}" stroke-width="2" stroke-dasharray="{dash}"/>'
            )
            mark += _MARKS.get(s.marker, "").format(s.color)
        swatch = f'<svg width="26" height="14" viewBox="0 0 26 14" aria-hidden="true">{mark}</svg>'
        keys.append(f"<li>{swatch} {html.escape(key.label)}</li>")
    legend = f"<ul class=legend>{''.join(keys)}</ul>\n" if keys else ""
    panels = "".join(f"<div>{svg}</div>\n" for svg in figure.svgs())
    return (
        f'<figure class=card id="{figure.name}">\n{legend}<div class=panels>\n{panels}</div>\n'
        f"</figure>\n<p class=read>{html.escape(figure.caption)} "
        f'<a href="figures/{figure.name}.svg">SVG</a> '
        f'<a href="figures/{figure.name}.png">PNG</a></p>\n'
    )


_MARKS = {
    "o": '<circle cx="13" cy="7" r="3.6" fill="{0}"/>',
    "s": '<rect x="9.6" y="3.6" width="6.8" height="6.8" fill="{0}"/>',
    "D": '<path d="M13 2.4L17.6 7L13 11.6L8.4 7Z" fill="{0}"/>',
    "^": '<path d="M13 2.4L17.4 11H8.6Z" fill="{0}"/>',
    "v": '<path d="M13 11.6L17.4 3H8.6Z" fill="{0}"/>',
    "P": '<path d="M13 2.6V11.4M8.6 7H17.4" stroke="{0}" stroke-width="3.4"/>',
}

_CSS = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1a1a1a;--soft:#5a5a5a;--line:#d5d5d5;--link:#0b57a4}
@media(prefers-color-scheme:dark){:root{--bg:#16181b;--fg:#e8e8e8;--soft:#a8adb3;--line:#3a3f45;
--link:#8ec1ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);line-height:1.5;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}
h2{font-size:1.25rem;margin:2.2rem 0 .5rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}
h3{font-size:1.05rem;margin:1.6rem 0 .5rem}
p,li,dd,td{overflow-wrap:anywhere}
a{color:var(--link)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem;margin:.5rem 0}
dt{color:var(--soft)}dd{margin:0;min-width:0}
nav ul{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:.8rem 0}
.read{color:var(--soft);font-size:.92rem;max-width:75ch;margin:.4rem 0 1rem}
.card{background:#fff;color:#1a1a1a;border:1px solid var(--line);border-radius:6px;margin:0;
padding:.6rem}
.panels{display:grid;gap:.6rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr))}
.panels svg{display:block;width:100%;max-width:480px;height:auto}
.legend{list-style:none;padding:0;margin:0 0 .5rem;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;
font-size:.9rem}
.legend svg{vertical-align:-2px}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px}
table{border-collapse:collapse;font-size:.84rem;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .5rem;text-align:left;white-space:nowrap}
td{border-top:1px solid var(--line)}th{color:var(--soft);font-weight:600}
.n{text-align:right}
.warn{border-left:4px solid #d55e00;padding:.2rem .8rem;margin:.8rem 0}
code{font-size:.9em}
"""


def _about(runs: Sequence[Run]) -> str:
    """What was compared, in a few lines."""

    def listed(values: Sequence[Any]) -> str:
        return ", ".join(dict.fromkeys(str(v)[:200] for v in values if v))

    lines = {"Tasks": listed([r.task for r in runs])}
    for base in dict.fromkeys(r.base for r in runs):
        lines[f"{BASES[base]} variants"] = listed([r.variant for r in runs if r.base == base])
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
    items = [f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in lines.items() if v]
    return f"<dl>\n{chr(10).join(items)}\n</dl>\n"


def _headline(found: Sequence[_Aggregate], runs: Sequence[Run]) -> list[str]:
    """The main result in sentences: each variant against its base."""
    out = []
    for a in found:
        if not math.isfinite(a.over_base.value):
            continue
        e, one = a.over_base, len(a.block.tasks) == 1
        where = f"on {a.block.tasks[0]}" if one else f"over {len(a.block.tasks)} tasks"
        verdict = "no interval with one seed"
        if e.has_interval:
            crosses = e.low <= 0 <= e.high
            verdict = "the interval holds 0" if crosses else "the interval leaves 0 out"
        better = shown(a.improvement, 2)
        out.append(
            f"{a.variant} ends {shown(e, 1)} points over plain {BASES[a.block.base]} {where}: "
            f"{verdict}. Probability of improvement: {better}."
        )
    if not out:
        out.append("No variant can be compared with its plain base over tasks here.")
    return out


def build_page(runs: Sequence[Run], left_out: Sequence[LeftOut]) -> tuple[str, Any, Any]:
    """The page's HTML, its tables and its figures."""
    found = _aggregates(runs)
    drawn = _all_figures(runs, found)
    tables = [scores_table(runs), aggregate_table(found), seeds_table(runs)]
    tables += [diagnostics_table(runs), cost_table(runs), runs_table(runs)]
    by_name = {table.name: table for table in tables if table.rows}
    watching = ["exchange", "auc", "alignment", "q_values", "diagnostics_table"]
    sections = [
        ("result", "Main result", ["main", "aggregate_table", "scores_table"]),
        ("aggregates", "Aggregate over tasks", ["aggregate", "improvement"]),
        ("ablations", "Ablation and sensitivity", ["ablation", "sensitivity"]),
        ("pretraining", "Offline phase", ["offline"]),
        ("watching", "Diagnostics", watching),
        ("costs", "Cost", ["cost", "cost_table"]),
        ("details", "Runs and seeds", ["runs_table", "seeds_table"]),
    ]  # fmt: skip
    body, contents = [], []
    for anchor, heading, parts in sections:
        blocks = []
        for part in parts:
            table = part.endswith("_table")
            item: Any = by_name.get(part.removesuffix("_table")) if table else drawn.get(part)
            if item is None:
                continue
            text = _figure_html(item) if isinstance(item, Figure) else item.html()
            blocks.append(f"<h3>{html.escape(item.heading)}</h3>\n{text}")
        if not blocks:
            continue
        contents.append(f'<li><a href="#{anchor}">{heading}</a></li>')
        said = ""
        if anchor == "result":
            lines = [f"<li>{html.escape(line)}</li>" for line in _headline(found, runs)]
            said = f"<ul>{''.join(lines)}</ul>\n"
        body.append(
            f'<section id="{anchor}">\n<h2>{heading}</h2>\n{said}{"".join(blocks)}</section>'
        )
    warnings = [html.escape(note) for note in results.notes(runs)]
    missing = [f"<li><code>{html.escape(x.path)}</code>: {html.escape(x.reason)}.</li>"
               for x in left_out]  # fmt: skip
    if missing:
        contents.append('<li><a href="#left-out">Left out</a></li>')
        body.append(
            '<section id="left-out">\n<h2>Left out</h2>\n<p>Not finished or not readable, so in no '
            f"figure or table:</p>\n<ul>{''.join(missing)}</ul>\n</section>"
        )
        count = len(missing)
        say = "directory was" if count == 1 else "directories were"
        warnings.append(f'{count} {say} left out: see <a href="#left-out">the list</a>.')
    warned = "".join(f"<p class=warn>{text}</p>\n" for text in warnings)
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MARK}\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>StratDiff report</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>Offline-to-online fine-tuning: report</h1>\n{_about(runs)}{warned}"
        f'<nav aria-label="Contents"><ul>{"".join(contents)}</ul></nav>\n'
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )
    return page, [*by_name.values()], [*drawn.values()]


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
        page, tables, drawn = build_page(runs, left_out)
        for folder in ("figures", "tables"):
            (partial / folder).mkdir()
        for figure in drawn:
            figure.save(partial / "figures")
        for table in tables:
            (partial / "tables" / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
            (partial / "tables" / f"{table.name}.md").write_text(table.markdown(), encoding="utf-8")
        (partial / "results.json").write_text(results.to_json(runs, left_out), encoding="utf-8")
        (partial / "index.html").write_text(page, encoding="utf-8")
        _move(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return runs, left_out


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
    ours = [Path("figures") / f"{n}.{kind}" for n in _FIGURES for kind in ("svg", "png")]
    ours += [Path("tables") / f"{n}.{kind}" for n in _TABLES for kind in ("csv", "md")]
    for path in ours:
        if path not in wanted:
            (target / path).unlink(missing_ok=True)
