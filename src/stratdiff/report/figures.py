"""The report's figures: which runs, metrics and estimates each of them shows."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from stratdiff.report import panels
from stratdiff.report.compact import ORIGINS, QUANTILES
from stratdiff.report.comparison import Aggregate, Block, over_base, reference, sweeps
from stratdiff.report.panels import Figure, Key, Line, Panel, Part, Style, rows_height
from stratdiff.report.runs import Run, by_task, phases
from stratdiff.report.statistics import bootstrap, mean
from stratdiff.report.titles import clean, title

NAMES = ["main", "offline", "aggregate", "improvement", "ablation", "sensitivity"]
NAMES += ["exchange", "auc", "alignment", "q_values", "cost"]

# Okabe and Ito's palette without its yellow, which is faint on white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_MARKERS = "osD^vP"
_GRAYS = ("#444444", "#888888")
MOST_CURVES = 7  # in a panel
MOST_FANS = 24

Looks = dict[str, Style]


def figures(
    runs: Sequence[Run], found: Sequence[tuple[Block, Sequence[Aggregate]]]
) -> list[Figure]:
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


def styles(runs: Sequence[Run]) -> Looks:
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


def choose(runs: Sequence[Run]) -> tuple[list[Run], str]:
    """The runs to draw as curves, and a sentence that names the variants left out.

    Of a sweep over one option only the variants of most tasks: the others have a figure of their
    own. At most `MOST_CURVES` for a base algorithm.
    """
    tasks = Counter((run.base, run.variant) for run in runs)
    minor = set()
    for sweep in sweeps(runs):
        members = {(sweep.base, run.variant) for _, run in sweep.points}
        most = max(tasks[m] for m in members)
        minor |= {m for m in members if tasks[m] < most}
    drawn, left = [], []
    for base in dict.fromkeys(run.base for run in runs):
        own = [key for key in tasks if key[0] == base]
        major = [key for key in own if key not in minor]
        kept = sorted(major, key=lambda key: -tasks[key])[:MOST_CURVES]
        drawn += [run for run in runs if (run.base, run.variant) in kept]
        left += [f"{name} ({title(base)})" for _, name in own if (base, name) not in kept]
    said = f"Not drawn, to keep it readable: {', '.join(left)}." if left else ""
    return drawn, said


def _titled(task: str, base: str) -> str:
    return f"{task}\n{title(base)}"


def _band(runs: Sequence[Run]) -> str:
    counts = {len(run.seeds) for run in runs}
    if counts == {1}:
        return "One seed: no interval is drawn."
    one = " Where there is one seed there is no band." if 1 in counts else ""
    return f"Lines are means over the seeds, bands 95 % bootstrap intervals of the mean.{one}"


def _by_task(
    name: str,
    runs: Sequence[Run],
    looks: Looks,
    parts: Callable[[list[Run]], list[Part]],
    keys: Sequence[Key] = (),
    height: float = 2.3,
    remark: str = "",
) -> Figure | None:
    """A panel a task and base algorithm, with a row a base algorithm where that fits."""
    if not runs:
        return None
    columns = max(2, min(4, len({run.task for run in runs})))
    found = [
        Panel(_titled(task, base), parts(group), height)
        for (base, task), group in by_task(runs).items()
    ]
    have = {run.variant for run in runs}
    legend = [Key(variant, look) for variant, look in looks.items() if variant in have]
    return Figure(name, found, [*legend, *keys], columns, _band(runs), remark)


_DATA = Key("mean episode of the data", Style("#999999", ":", ""))


def curves(runs: Sequence[Run], looks: Looks, phase: str, dropped: str = "") -> Figure | None:
    """Scores over the online phase, or over the offline one, `base`."""
    drawn = [r for r in runs if phase in r.evaluations]

    def parts(group: list[Run]) -> list[Part]:
        series = [(looks[run.variant], run.evaluations[phase]) for run in group]
        data = group[0].about["dataset"].get("mean_score")
        known = data is not None and math.isfinite(data)
        lines = [Line(look, s["step"], s["score"]) for look, s in series]
        y = "normalised score" if group[0].normalized else "return"
        x = "environment steps" if phase == "online" else "offline updates"
        return [panels.Curves(lines, y, x, data if known else None, _DATA.style)]

    if phase == "online":
        return _by_task("main", drawn, looks, parts, [_DATA], remark=dropped)
    return _by_task("offline", _once(drawn), looks, parts, [_DATA])


def _once(runs: Iterable[Run]) -> list[Run]:
    """Of runs with the same offline curve the first."""
    first: dict[Any, Run] = {}
    for run in runs:
        key = (run.base, run.task, run.evaluations["base"]["score"].tobytes())
        first.setdefault(key, run)
    return list(first.values())


def estimates(
    runs: Sequence[Run], found: Sequence[tuple[Block, Sequence[Aggregate]]], looks: Looks
) -> list[Figure]:
    """Scores and regret over tasks, the probability of improvement, the change over the base."""
    each: dict[str, list[Panel | None]] = {"aggregate": [], "improvement": [], "ablation": []}
    last: dict[str, str] = {}

    def add(
        name: str, tasks: Sequence[str], label: str, rows: Iterable[Any], level: float | None = None
    ) -> None:
        known = [(variant, looks[variant], e) for variant, e in rows if e.has_value]
        if not known:
            return
        if last.setdefault(name, base) != base:  # on a row of its own
            each[name] += [None] * (-len(each[name]) % 3)
        last[name] = base
        where = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
        height = rows_height([variant for variant, _, _ in known], 1.0)
        each[name].append(Panel(_titled(where, base), [panels.Dots(known, label, level)], height))

    for base in dict.fromkeys(run.base for run in runs):
        better, over = f"P(better than plain {title(base)})", f"score over plain {title(base)}"
        for block, own in found:
            if block.base != base:
                continue
            where = block.tasks
            add("aggregate", where, "IQM of scores after", ((a.variant, a.iqm) for a in own))
            add("aggregate", where, "mean score after", ((a.variant, a.mean) for a in own))
            regret = ((a.variant, a.regret) for a in own)
            add("aggregate", where, "regret (lower is better)", regret)
            add("improvement", where, better, ((a.variant, a.improvement) for a in own), 0.5)
            if len(where) > 1:
                add("ablation", where, over, ((a.variant, a.over_base) for a in own), 0.0)
        for (_, task), group in by_task(r for r in runs if r.base == base).items():
            add("ablation", [task], over, ((r.variant, over_base(r, runs)) for r in group), 0.0)
    many = [block for block, _ in found if len(block.tasks) > 1]
    sets = "; ".join(f"{title(b.base)}: {', '.join(b.tasks)}" for b in many)
    remark = "One seed: no interval. " if all(len(r.seeds) == 1 for r in runs) else ""
    remark += f"Tasks: {sets}." if sets else ""
    return [Figure(name, p, columns=3, remark=remark) for name, p in each.items() if p]


def sensitivity(runs: Sequence[Run], looks: Looks) -> Figure | None:
    """Score and regret against the one option that a sweep changes."""
    found = []
    any_plain = False
    for sweep in sweeps(runs):
        first = sweep.points[0][1]
        plain = next((o for _, run in sweep.points if (o := reference(run, runs))), None)
        level = bootstrap(mean, [plain.after]).value if plain else None
        any_plain |= plain is not None
        kinds = {"after": "score"} | ({"regret": "regret"} if first.normalized else {})
        for kind, what in kinds.items():
            points = [
                (x, looks[run.variant], bootstrap(mean, [getattr(run, kind)]))
                for x, run in sweep.points
            ]
            label = "score after" if first.normalized else "return after"
            axis = (label, level) if kind == "after" else ("regret", None)
            part = panels.Response(points, sweep.option, *axis)
            how = f"{title(sweep.base)}, {title(first.score)}: {what} by {sweep.option}"
            found.append(Panel(f"{sweep.task}\n{how}", [part]))
    if not found:
        return None
    legend = [Key("plain base", Style("#444444", "--", ""))] if any_plain else []
    return Figure("sensitivity", found, legend)


def diagnostic(
    runs: Sequence[Run], looks: Looks, name: str, metric: str, ylabel: str
) -> Figure | None:
    """A metric over the online phase that is 0.5 by chance."""
    drawn = [r for r in runs if metric in r.diagnostics]

    def parts(group: list[Run]) -> list[Part]:
        series = [(looks[run.variant], run.diagnostics) for run in group]
        lines = [Line(look, s["step"], s[metric]) for look, s in series]
        return [panels.Curves(lines, ylabel, level=0.5)]

    return _by_task(name, drawn, looks, parts)


_ORIGIN_STYLES = {
    "offline": Style("#0072B2", "-", "o"),
    "online": Style("#D55E00", (0, (4, 1.5)), "s"),
}


def alignment(runs: Sequence[Run]) -> Figure | None:
    """Alignment scores of a batch's rows by origin, and the threshold that splits them."""
    scored = [r for r in runs if r.score not in ("none", "random")]
    have = [r for r in scored if "alignment_threshold" in r.diagnostics]
    if not have:
        return None
    found = []
    for run in have[:MOST_FANS]:
        series = run.diagnostics
        part = panels.Fans(
            series["step"],
            [(_ORIGIN_STYLES[origin], *_fan(series, origin)) for origin in ORIGINS],
            _across(series["alignment_threshold"]),
            "alignment score",
        )
        found.append(Panel(f"{_titled(run.task, run.base)} · {run.variant}", [part]))
    left = len(have) - len(found)
    legend = [
        Key("rows of the offline data", _ORIGIN_STYLES["offline"]),
        Key("rows collected online", _ORIGIN_STYLES["online"]),
        Key("batch threshold", Style("black", ":", "")),
    ]
    remark = f"{left} more runs are not drawn." if left else ""
    return Figure("alignment", found, legend, columns=3, remark=remark)


def _across(values: np.ndarray) -> np.ndarray:
    """Mean over the seeds that have a number."""
    count = np.isfinite(values).sum(1)
    total = np.where(np.isfinite(values), values, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def _fan(series: dict[str, np.ndarray], origin: str) -> tuple[list[Any], np.ndarray]:
    """Bands (low, high), widest first, and the line in the middle."""
    if f"alignment_q50_{origin}" in series:
        q = {k: _across(series[f"alignment_q{k}_{origin}"]) for k in QUANTILES}
        return [(q[10], q[90]), (q[25], q[75])], q[50]
    if f"alignment_mean_{origin}" not in series or f"alignment_std_{origin}" not in series:
        return [], np.full(len(series["step"]), np.nan)
    middle = _across(series[f"alignment_mean_{origin}"])
    spread = _across(series[f"alignment_std_{origin}"])
    return [(middle - spread, middle + spread)], middle


def q_values(runs: Sequence[Run], looks: Looks) -> Figure | None:
    """Mean Q above, evaluated return below."""
    drawn = [r for r in runs if "q_mean" in r.diagnostics and "online" in r.evaluations]

    def parts(group: list[Run]) -> list[Part]:
        series = [(looks[r.variant], r.diagnostics, r.evaluations["online"]) for r in group]
        q = [Line(look, s["step"], s["q_mean"]) for look, s, _ in series]
        returns = [Line(look, s["step"], s["return"]) for look, _, s in series]
        return [panels.Curves(q, "mean Q"), panels.Curves(returns, "return")]

    return _by_task("q_values", drawn, looks, parts, height=3.4)


_PHASES = {
    "base": Key("offline base", Style("#0072B2"), ""),
    "behaviour": Key("behaviour model", Style("#E69F00"), "//"),
    "support": Key("support actions", Style("#009E73"), ""),
    "energy": Key("energy model", Style("#CC79A7"), "//"),
    "online": Key("online", Style("#D55E00"), ""),
}


def _phase_keys(runs: Sequence[Run]) -> dict[str, Key]:
    """The look of each phase; those without one of their own take the palette from its end."""
    unknown = [phase for phase in phases(runs) if phase not in _PHASES]
    colors = [_COLORS[-1 - i % len(_COLORS)] for i in range(len(unknown))]
    others = {p: Key(clean(p), Style(c), "xx") for p, c in zip(unknown, colors, strict=True)}
    return {phase: (_PHASES | others)[phase] for phase in phases(runs)}


def cost(runs: Sequence[Run]) -> Figure | None:
    """Wall time of each phase."""
    timed = [r for r in runs if r.about["seconds"]]
    if not timed:
        return None
    keys = _phase_keys(timed)
    found = []
    for (base, task), group in by_task(timed).items():
        rows = [
            (r.variant, [(key, r.about["seconds"].get(p, 0.0) / 60) for p, key in keys.items()])
            for r in group
        ]
        height = rows_height([variant for variant, _ in rows], 1.1)
        found.append(Panel(_titled(task, base), [panels.Bars(rows, "minutes")], height))
    return Figure("cost", found, list(keys.values()), columns=3)
