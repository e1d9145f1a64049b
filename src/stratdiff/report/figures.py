"""The report's figures: which runs, metrics and estimates each of them shows."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stratdiff.report import panels
from stratdiff.report.compact import ORIGINS, QUANTILES
from stratdiff.report.comparison import Found, control, over_base, reference, sweeps
from stratdiff.report.panels import Figure, Key, Line, Panel, Part, Style, rows_height
from stratdiff.report.runs import Run, Runs, Series, by_task, clean, phases, title
from stratdiff.report.statistics import bootstrap, finite_mean, mean

NAMES = ["main", "offline", "aggregate", "improvement", "ablation", "sensitivity"]
NAMES += ["exchange", "auc", "alignment", "q_values", "cost"]

# Okabe and Ito's palette without its yellow, which is faint on white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_MARKERS = "osD^vP"
_GRAYS = ("#444444", "#888888")
MOST_CURVES = 8  # in a panel
MOST_FANS = 24

Looks = dict[str, Style]
Parts = Callable[[list[Run]], list[Part]]


def figures(runs: Runs, found: Found) -> list[Figure]:
    """All figures that the runs and their aggregates give something to show for."""
    looks = styles(runs)
    drawn, dropped = choose(runs)
    each = [
        curves(drawn, looks, "online", dropped),
        curves(drawn, looks, "base"),
        *estimates(runs, found, looks),
        sensitivity(runs, looks),
        diagnostic(drawn, looks, "exchange", "exchange_fraction", "exchange fraction"),
        diagnostic(drawn, looks, "auc", "alignment_auc", "AUC"),
        alignment(drawn),
        q_values(drawn, looks),
        cost(runs),
    ]
    return [figure for figure in each if figure is not None]


def styles(runs: Runs) -> Looks:
    """The look of each variant: plain bases gray, the others in colours, in the report's order."""
    out: Looks = {}
    plain = list(dict.fromkeys(r.variant for r in runs if r.is_plain))
    other = list(dict.fromkeys(r.variant for r in runs if r.variant not in plain))
    for i, name in enumerate(plain):
        out[name] = Style(_GRAYS[i % 2], _DASHES[(1 + i // 2) % 4], "s^"[i % 2])
    for i, name in enumerate(other):
        turn = i // len(_COLORS)
        color = _COLORS[i % len(_COLORS)]
        out[name] = Style(color, _DASHES[turn % 4], _MARKERS[(i + turn) % len(_MARKERS)])
    return out


def choose(runs: Runs) -> tuple[list[Run], str]:
    """The runs to draw as curves, and a sentence that names the variants left out.

    Of a sweep over one option only the variants of most tasks and the controls: the others have a
    figure of their own. At most `MOST_CURVES` for a base algorithm, those of sweeps last.
    """
    tasks = Counter((run.base, run.variant) for run in runs)
    minor, swept = set(), set()
    for sweep in sweeps(runs):
        members = {(sweep.base, run.variant) for _, run in sweep.points}
        most = max(tasks[m] for m in members)
        members -= {(sweep.base, run.variant) for _, run in sweep.points if control(run)}
        minor |= {m for m in members if tasks[m] < most}
        swept |= members
    drawn, left = [], []
    for base in dict.fromkeys(run.base for run in runs):
        own = [key for key in tasks if key[0] == base]
        major = [key for key in own if key not in minor]
        kept = sorted(major, key=lambda key: (key in swept, -tasks[key]))[:MOST_CURVES]
        drawn += [run for run in runs if (run.base, run.variant) in kept]
        left += [f"{name} ({title(base)})" for _, name in own if (base, name) not in kept]
    said = f"Not drawn, to keep it readable: {', '.join(left)}." if left else ""
    return drawn, said


def _titled(task: str, base: str) -> str:
    return f"{task}\n{title(base)}"


def _by_task(
    name: str, runs: Runs, looks: Looks, parts: Parts, keys: Sequence[Key] = (), remark: str = ""
) -> Figure | None:
    """A panel a task and base algorithm, with a row a base algorithm where that fits."""
    groups = by_task(runs)
    tasks = list(dict.fromkeys(task for _, task in groups))
    columns = max(2, min(4, len(tasks)))
    places = [*groups]
    if len(tasks) == columns:  # a task is a column, also where a base lacks it
        places = [(base, task) for base in dict.fromkeys(b for b, _ in groups) for task in tasks]
    found: list[Panel | None] = []
    for base, task in places:
        own = parts(groups[base, task]) if (base, task) in groups else []
        height = 2.3 if len(own) == 1 else 3.4
        found.append(Panel(_titled(task, base), own, height) if own else None)
    have = {run.variant for run in runs}
    legend = [Key(variant, look) for variant, look in looks.items() if variant in have]
    seeds = {len(run.seeds) for run in runs}
    return Figure(name, found, [*legend, *keys], columns, remark, seeds) if found else None


def _lines(group: list[Run], looks: Looks, metric: str, phase: str = "") -> list[Line]:
    """A metric of each run: of a phase's evaluations, or a diagnostic."""
    each = [(looks[r.variant], r.evaluations[phase] if phase else r.diagnostics) for r in group]
    return [Line(look, series["step"], series[metric]) for look, series in each]


_DATA = Key("mean episode of the data", Style("#999999", ":", ""))


def curves(runs: Runs, looks: Looks, phase: str, dropped: str = "") -> Figure | None:
    """Scores over the online phase, or over the offline one, `base`."""
    drawn = [r for r in runs if phase in r.evaluations]
    name, steps = "main", "environment steps"
    if phase == "base":
        name, steps = "offline", "offline updates"
        first: dict[Any, Run] = {}  # of runs with the same curve
        for r in drawn:
            first.setdefault((r.base, r.task, r.evaluations["base"]["score"].tobytes()), r)
        drawn = list(first.values())

    def parts(group: list[Run]) -> list[Part]:
        data = group[0].about["dataset"].get("mean_score")
        level = data if data is not None and math.isfinite(data) else None
        y = "normalised score" if group[0].normalized else "return"
        lines = _lines(group, looks, "score", phase)
        return [panels.Curves(lines, y, steps, level, _DATA.style)]

    return _by_task(name, drawn, looks, parts, [_DATA], remark=dropped)


_OVER_BASE = "score over plain {}"
_ESTIMATES = (  # of a block: figure, label, level of no difference, attribute of Aggregate
    ("aggregate", "IQM of scores after", None, "iqm"),
    ("aggregate", "mean score after", None, "mean"),
    ("aggregate", "regret (lower is better)", None, "regret"),
    ("improvement", "P(better than plain {})", 0.5, "improvement"),
    ("ablation", _OVER_BASE, 0.0, "over_base"),
)


def estimates(runs: Runs, found: Found, looks: Looks) -> list[Figure]:
    """Scores and regret over tasks, the probability of improvement, the change over the base."""
    bases = dict.fromkeys(run.base for run in runs)
    each: dict[str, dict[str, list[Panel | None]]]
    each = {name: {base: [] for base in bases} for name, *_ in _ESTIMATES}

    def add(figure: str, base: str, where: str, label: str, level: float | None, rows: Any) -> None:
        known = [(variant, looks[variant], e) for variant, e in rows if e.has_value]
        height = rows_height([variant for variant, _, _ in known], 1.0)
        dots = panels.Dots(known, label.format(title(base)), level)
        if known:
            each[figure][base].append(Panel(_titled(where, base), [dots], height))

    for block, own in found:
        tasks = block.tasks[0] if len(block.tasks) == 1 else f"{len(block.tasks)} tasks"
        for figure, label, level, kind in _ESTIMATES:
            if figure != "ablation" or len(block.tasks) > 1:
                rows = [(a.variant, getattr(a, kind)) for a in own]
                add(figure, block.base, tasks, label, level, rows)
    for (base, task), group in by_task(runs).items():
        rows = [(run.variant, over_base(run, runs)) for run in group]
        add("ablation", base, task, _OVER_BASE, 0.0, rows)
    many = [block for block, _ in found if len(block.tasks) > 1]
    sets = "; ".join(f"{title(b.base)}: {', '.join(b.tasks)}" for b in many)
    remark = "One seed: no interval. " if all(len(r.seeds) == 1 for r in runs) else ""
    remark += f"Tasks: {sets}." if sets else ""
    out = []
    for name, of_bases in each.items():
        shown: list[Panel | None] = []
        for of_base in filter(None, of_bases.values()):  # each on a row of its own
            shown += [None] * (-len(shown) % 3) + of_base
        out += [Figure(name, shown, columns=3, remark=remark)] if shown else []
    return out


def sensitivity(runs: Runs, looks: Looks) -> Figure | None:
    """Score and regret against the one option that a sweep changes."""
    found, any_plain = [], False
    for sweep in sweeps(runs):
        first = sweep.points[0][1]
        plain = next((o for _, run in sweep.points if (o := reference(run, runs))), None)
        any_plain |= plain is not None
        level = bootstrap(mean, [plain.after]).value if plain else None
        kinds = [("after", "score", "score after" if first.normalized else "return after", level)]
        if first.normalized:
            kinds.append(("regret", "regret", "regret", None))
        for kind, what, label, line in kinds:
            each = [(x, run, bootstrap(mean, [getattr(run, kind)])) for x, run in sweep.points]
            points = [(x, looks[run.variant], estimate) for x, run, estimate in each]
            how = f"{title(sweep.base)}, {title(first.score)}: {what} by {sweep.option}"
            part = panels.Response(points, sweep.option, label, line)
            found.append(Panel(f"{sweep.task}\n{how}", [part]))
    legend = [Key("plain base", Style("#444444", "--", ""))] if any_plain else []
    return Figure("sensitivity", found, legend) if found else None


def diagnostic(runs: Runs, looks: Looks, name: str, metric: str, ylabel: str) -> Figure | None:
    """A metric over the online phase that is 0.5 by chance."""

    def parts(group: list[Run]) -> list[Part]:
        return [panels.Curves(_lines(group, looks, metric), ylabel, level=0.5)]

    return _by_task(name, [r for r in runs if metric in r.diagnostics], looks, parts)


_ORIGINS = (
    Key("rows of the offline data", Style("#0072B2", "-", "o")),
    Key("rows collected online", Style("#D55E00", (0, (4, 1.5)), "s")),
)


def alignment(runs: Runs) -> Figure | None:
    """Alignment scores of a batch's rows by origin, and the threshold that splits them."""
    scored = [r for r in runs if r.score not in ("none", "random")]
    have = [r for r in scored if "alignment_threshold" in r.diagnostics]
    found = []
    for run in have[:MOST_FANS]:
        series = {k: v if k == "step" else finite_mean(v, 1) for k, v in run.diagnostics.items()}
        fans = [(k.style, *_fan(series, o)) for k, o in zip(_ORIGINS, ORIGINS, strict=True)]
        level = series["alignment_threshold"]
        part = panels.Fans(series["step"], fans, level, "alignment score")
        found.append(Panel(f"{_titled(run.task, run.base)} · {run.variant}", [part]))
    left = len(have) - len(found)
    legend = [*_ORIGINS, Key("batch threshold", Style("black", ":", ""))]
    remark = f"{left} more runs are not drawn." if left else ""
    return Figure("alignment", found, legend, columns=3, remark=remark) if found else None


def _fan(series: Series, origin: str) -> tuple[list[Any], np.ndarray]:
    """Bands (low, high), widest first, and the line in the middle; `series`: [points] each."""
    if f"alignment_q50_{origin}" in series:
        q = {k: series[f"alignment_q{k}_{origin}"] for k in QUANTILES}
        return [(q[10], q[90]), (q[25], q[75])], q[50]
    if f"alignment_mean_{origin}" not in series or f"alignment_std_{origin}" not in series:
        return [], np.full(len(series["step"]), np.nan)
    middle, spread = (series[f"alignment_{kind}_{origin}"] for kind in ("mean", "std"))
    return [(middle - spread, middle + spread)], middle


def q_values(runs: Runs, looks: Looks) -> Figure | None:
    """Mean Q above, evaluated return below."""
    drawn = [r for r in runs if "q_mean" in r.diagnostics and "online" in r.evaluations]

    def parts(group: list[Run]) -> list[Part]:
        q, returns = _lines(group, looks, "q_mean"), _lines(group, looks, "return", "online")
        return [panels.Curves(q, "mean Q"), panels.Curves(returns, "return")]

    return _by_task("q_values", drawn, looks, parts)


_PHASES = {
    "base": Key("offline base", Style("#0072B2"), ""),
    "behaviour": Key("behaviour model", Style("#E69F00"), "//"),
    "support": Key("support actions", Style("#009E73"), ""),
    "energy": Key("energy model", Style("#CC79A7"), "//"),
    "online": Key("online", Style("#D55E00"), ""),
}


def cost(runs: Runs) -> Figure | None:
    """Wall time of each phase."""
    timed = [r for r in runs if r.about["seconds"]]
    order = phases(timed)
    # Phases without a look of their own take the palette from its end.
    unknown = enumerate(phase for phase in order if phase not in _PHASES)
    others = {p: Key(clean(p), Style(_COLORS[-1 - i % len(_COLORS)]), "xx") for i, p in unknown}
    keys = {phase: (_PHASES | others)[phase] for phase in order}
    found = []
    for (base, task), group in by_task(timed).items():
        minutes = [[r.about["seconds"].get(p, 0.0) / 60 for p in order] for r in group]
        stacked = [list(zip(keys.values(), values, strict=True)) for values in minutes]
        names = [r.variant for r in group]
        bars = panels.Bars(list(zip(names, stacked, strict=True)), "minutes")
        found.append(Panel(_titled(task, base), [bars], rows_height(names, 1.1)))
    return Figure("cost", found, list(keys.values()), columns=3) if found else None
