"""The report's figures: small panels that a page can reflow, and the same ones in one picture."""

import contextlib
import dataclasses
import html
import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullFormatter

from stratdiff.report import results, statistics
from stratdiff.report.results import BASES, ORIGINS, Block, Run, Sweep, panels
from stratdiff.report.statistics import Estimate
from stratdiff.stratify import QUANTILES

# Okabe and Ito's palette without its yellow, which is faint on white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_MARKERS = "osD^vP"
_GRAYS = ("#444444", "#888888")
MOST_CURVES = 7  # in a panel
PANEL_INCHES = 3.4  # width on the page
MOST_FANS = 24

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "svg.fonttype": "none",
    # Names come from directories: a $ in one is no formula.
    "text.parse_math": False,
}


@dataclasses.dataclass(frozen=True)
class Style:
    """How a variant looks in every figure."""

    color: str
    dash: Any = "-"
    marker: str = "o"


@dataclasses.dataclass(frozen=True)
class Key:
    """An entry of a legend: a line, or an area where there is a hatch."""

    label: str
    style: Style
    hatch: str | None = None

    def handle(self) -> Any:
        s = self.style
        if self.hatch is not None:
            return Patch(facecolor=s.color, hatch=self.hatch, edgecolor="white", linewidth=0)
        return Line2D([], [], color=s.color, linestyle=s.dash, marker=s.marker, markersize=4)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One small picture; `draw` gets its axes, `stack` of them from top to bottom."""

    title: str
    draw: Callable[[list[Any]], None]
    height: float = 2.3
    """Inches."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """Panels that belong together, with one legend."""

    name: str
    heading: str
    caption: str
    panels: Sequence[Panel | None]
    """None leaves a place free."""
    legend: Sequence[Key] = ()
    stack: int = 1
    columns: int = 4

    def save(self, folder: Path) -> None:
        """Write NAME.svg and NAME.png."""
        with self._drawn(self.panels, self.columns, legend=True) as figure:
            (folder / f"{self.name}.svg").write_text(_svg(figure), encoding="utf-8")
            figure.set_layout_engine("none")  # it is laid out by now
            figure.savefig(folder / f"{self.name}.png", dpi=200, metadata={"Software": None})

    def svgs(self) -> list[str]:
        """A panel each, to be put into a page."""
        out = []
        for i, panel in enumerate(self.panels):
            if panel is None:
                continue
            with self._drawn([panel], 1, legend=False, salt=str(i)) as figure:
                text = _svg(figure)
            out.append(_inline(text, f"{self.heading}: {panel.title}"))
        return out

    @contextlib.contextmanager
    def _drawn(
        self, panels: Sequence[Panel | None], columns: int, legend: bool, salt: str = ""
    ) -> Iterator[Any]:
        columns = max(1, min(columns, len(panels)))
        rows = math.ceil(len(panels) / columns)
        width = {1: 4.8 if legend else PANEL_INCHES, 2: 7.0}.get(columns, 9.0)
        heights = [max(p.height for p in panels[r * columns :][:columns] if p) for r in range(rows)]
        size = (width, sum(heights) + (0.4 if legend and self.legend else 0.0))
        rc: Any = _RC | {"svg.hashsalt": f"{self.name}{salt}"}
        with matplotlib.rc_context(rc), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a name in a script the font lacks
            figure, axes = plt.subplots(
                rows * self.stack,
                columns,
                figsize=size,
                squeeze=False,
                layout="constrained",
                height_ratios=[h / self.stack for h in heights for _ in range(self.stack)],
            )
            for i in range(rows * columns):
                row, column = divmod(i, columns)
                own = [axes[row * self.stack + k][column] for k in range(self.stack)]
                panel = panels[i] if i < len(panels) else None
                if panel is None:
                    for axis in own:
                        axis.set_axis_off()
                    continue
                panel.draw(own)
                own[0].set_title(
                    _wrapped(panel.title, 26 if columns > 3 else 34), loc="left", linespacing=1.15
                )
            if legend and self.legend:
                figure.legend(
                    [key.handle() for key in self.legend],
                    [_wrapped(" " + key.label, 34) for key in self.legend],
                    loc="outside lower center",
                    ncols=min(len(self.legend), 5 if columns > 2 else 3),
                    frameon=False,
                )
            yield figure
            plt.close(figure)


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})

    def shorter(tag: re.Match[str]) -> str:
        return re.sub(r"(\.\d\d)\d+", r"\1", tag.group())  # hundredths of a point will do

    return re.sub(r"<[^>]+>", shorter, text.getvalue())


def _inline(svg: str, label: str) -> str:
    """An SVG file's text as an element of a page that holds others."""
    opening, rest = svg[svg.index("<svg") :].split(">", 1)
    # The style would hold for the whole page.
    rest = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", rest, flags=re.S)
    # Ids such as axes_1 are the same in every figure, and nothing refers to them.
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", rest))
    rest = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", rest)
    box = re.search(r'viewBox="[^"]*"', opening)
    return (
        f'<svg {box[0] if box else ""} role="img" aria-label="{html.escape(label)}" '
        f'style="stroke-linejoin:round;stroke-linecap:butt">{rest}'
    )


def _wrapped(text: str, width: int) -> str:
    lines = [w for part in text.split("\n") for w in (textwrap.wrap(part, width) or [""])]
    return "\n".join(lines)


def styles(runs: Sequence[Run]) -> dict[str, Style]:
    """The look of each variant: plain bases gray, the others in colours, in the report's order."""
    out: dict[str, Style] = {}
    plain = list(dict.fromkeys(r.variant for r in runs if r.method == "base"))
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
    tasks: dict[tuple[str, str], int] = {}
    for run in runs:
        tasks[run.base, run.variant] = tasks.get((run.base, run.variant), 0) + 1
    minor = set()
    for sweep in results.sweeps(runs):
        members = {(sweep.base, run.variant) for _, run in sweep.points}
        most = max(tasks[m] for m in members)
        minor |= {m for m in members if tasks[m] < most}
    drawn, left = [], []
    for base in dict.fromkeys(run.base for run in runs):
        own = [key for key in tasks if key[0] == base]
        major = [key for key in own if key not in minor]
        kept = sorted(major, key=lambda key: -tasks[key])[:MOST_CURVES]
        drawn += [run for run in runs if (run.base, run.variant) in kept]
        left += [f"{name} ({BASES[base]})" for _, name in own if (base, name) not in kept]
    said = f" Not drawn, to keep it readable: {', '.join(left)}." if left else ""
    return drawn, said


def _title(base: str, task: str) -> str:
    return f"{task}\n{BASES[base]}"


def _ticks(most: int) -> MaxNLocator:
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


def _steps(axis: Any, label: str = "environment steps") -> None:
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_major_locator(_ticks(5))
    axis.yaxis.set_major_locator(_ticks(5))
    axis.set_xlabel(label)


def _curve(axis: Any, steps: np.ndarray, values: np.ndarray, style: Style) -> None:
    """Mean over the seeds and its band."""
    if not len(steps):
        return
    middle, low, high = statistics.curve(values)
    axis.plot(
        steps,
        middle,
        color=style.color,
        linestyle=style.dash,
        linewidth=1.5,
        marker=style.marker,
        markersize=3,
        markevery=max(1, len(steps) // 8),
    )
    axis.fill_between(steps, low, high, color=style.color, alpha=0.17, linewidth=0)


_DATA_KEY = Key("mean episode of the data", Style("#999999", ":", ""))


def _keys(runs: Sequence[Run], looks: dict[str, Style]) -> list[Key]:
    have = {run.variant for run in runs}
    return [Key(name, look) for name, look in looks.items() if name in have]


def _band(runs: Sequence[Run]) -> str:
    counts = {len(run.seeds) for run in runs}
    if counts == {1}:
        return "One seed: no interval is drawn."
    one = " Where there is one seed there is no band." if 1 in counts else ""
    return f"Lines are means over the seeds, bands 95 % bootstrap intervals of the mean.{one}"


def curves(runs: Sequence[Run], looks: dict[str, Style], phase: str, dropped: str) -> Figure | None:
    """Scores over the online or the offline phase."""
    online = phase == "online"
    drawn = [r for r in runs if phase in r.evaluations]
    if not drawn:
        return None
    if not online:
        drawn = _once(drawn)
    found = []
    for (base, task), group in panels(drawn).items():

        def draw(axes: list[Any], group: list[Run] = group) -> None:
            (axis,) = axes
            for run in group:
                series = run.evaluations[phase]
                _curve(axis, series["step"], series["score"], looks[run.variant])
            data = group[0].about["dataset"].get("mean_score")
            if data is not None and math.isfinite(data):
                axis.axhline(data, color="#999999", linestyle=":", linewidth=1.2)
            axis.set_ylabel("normalised score" if group[0].normalized else "return")
            _steps(axis, "environment steps" if online else "offline updates")

        found.append(Panel(_title(base, task), draw))
    shared = (
        " Variants whose offline curves are the same, as they share their pre-training, are drawn "
        "once, under the first one's name."
    )
    caption = (
        f"Score over {'environment steps online' if online else 'offline updates'}, one panel a "
        f"task and base algorithm. {_band(drawn)} Dotted: mean episode of the offline data."
    )
    return Figure(
        "main" if online else "offline",
        "Online learning curves" if online else "Offline learning curves",
        caption + (dropped if online else shared),
        found,
        [*_keys(drawn, looks), _DATA_KEY],
        columns=_columns(drawn),
    )


def _once(runs: list[Run]) -> list[Run]:
    """Of runs with the same offline curve the first."""
    seen = set()
    out = []
    for run in runs:
        key = (run.base, run.task, run.evaluations["base"]["score"].tobytes())
        if key not in seen:
            out.append(run)
        seen.add(key)
    return out


def _columns(runs: Sequence[Run]) -> int:
    """A row a base algorithm where that fits."""
    return max(2, min(4, len({run.task for run in runs})))


Row = tuple[str, Style, Estimate]


def _dots(axis: Any, rows: Sequence[Row], line: float | None = None) -> None:
    """Estimates below one another, with their intervals."""
    for y, (_, style, e) in enumerate(rows):
        if e.has_interval:
            axis.plot([e.low, e.high], [y, y], color=style.color, linewidth=2)
        axis.plot([e.value], [y], color=style.color, marker=style.marker, markersize=5)
    if line is not None:
        axis.axvline(line, color="#666666", linewidth=1, linestyle="--")
    if line == 0.5:  # a probability
        axis.set_xlim(-0.02, 1.02)
    axis.set_yticks(range(len(rows)), [_wrapped(" " + name, 20) for name, _, _ in rows])
    axis.set_ylim(max(len(rows), 3) - 0.5, -0.5)
    axis.xaxis.set_major_locator(_ticks(4))
    axis.grid(axis="y", visible=False)


def _dot_panel(title: str, rows: Sequence[Row], label: str, line: float | None = None) -> Panel:
    def draw(axes: list[Any]) -> None:
        _dots(axes[0], rows, line)
        axes[0].set_xlabel(label)

    lines = sum(1 + len(_wrapped(name, 20).split("\n")) for name, _, _ in rows) / 2
    return Panel(title, draw, 1.0 + 0.24 * lines)


def dots(
    name: str,
    heading: str,
    caption: str,
    panels_: Sequence[tuple[str, str, float | None, list[tuple[str, Estimate]]]],
    looks: dict[str, Style],
) -> Figure | None:
    """Dot-and-interval panels from (title, x label, reference line, rows)."""
    found: list[Panel | None] = []
    last = None
    for title, label, line, rows in panels_:
        if not rows:
            continue
        base = title.split("\n")[-1]
        if base != last:  # on a row of its own
            found += [None] * (-len(found) % 3)
        last = base
        found.append(_dot_panel(title, [(n, looks[n], e) for n, e in rows], label, line))
    return Figure(name, heading, caption, found, columns=3) if found else None


def block_title(block: Block) -> str:
    """The base algorithm and its tasks, as short as it gets."""
    one = block.tasks[0] if len(block.tasks) == 1 else f"{len(block.tasks)} tasks"
    return f"{one}\n{BASES[block.base]}"


def sensitivity(
    found: Sequence[Sweep], levels: Sequence[Estimate | None], looks: dict[str, Style]
) -> Figure | None:
    """Score and regret against the one option that a sweep changes; `levels`: their bases."""
    if not found:
        return None
    shown = []
    for sweep, level in zip(found, levels, strict=True):
        kinds = ["after", "regret"] if sweep.points[0][1].normalized else ["after"]
        for kind in kinds:

            def draw(
                axes: list[Any],
                sweep: Sweep = sweep,
                kind: str = kind,
                level: Estimate | None = level,
            ) -> None:
                (axis,) = axes
                xs = [x for x, _ in sweep.points]
                ys = [statistics.bootstrap(statistics.mean, [getattr(r, kind)])
                      for _, r in sweep.points]  # fmt: skip
                axis.plot(xs, [e.value for e in ys], color="#0072B2", linewidth=1, alpha=0.6)
                for x, e, (_, run) in zip(xs, ys, sweep.points, strict=True):
                    look = looks[run.variant]
                    if e.has_interval:
                        axis.plot([x, x], [e.low, e.high], color=look.color, linewidth=1.8)
                    axis.plot([x], [e.value], color=look.color, marker=look.marker, markersize=5)
                if kind == "after" and level is not None:
                    axis.axhline(level.value, color="#444444", linestyle="--", linewidth=1)
                if min(xs) > 0 and max(xs) / min(xs) > 20:
                    axis.set_xscale("log")
                elif len(set(xs)) <= 6:
                    axis.set_xticks(sorted(set(xs)), [f"{x:g}" for x in sorted(set(xs))])
                axis.set_xlabel(sweep.option)
                score = "score after" if sweep.points[0][1].normalized else "return after"
                axis.set_ylabel(score if kind == "after" else "regret")
                axis.yaxis.set_major_locator(_ticks(5))

            what = "score" if kind == "after" else "regret"
            how = f"{BASES[sweep.base]}, {sweep.points[0][1].split}"
            title = f"{sweep.task}\n{how}: {what} by {sweep.option}"
            shown.append(Panel(title, draw))
    return Figure(
        "sensitivity",
        "Sensitivity",
        "Runs of a task that differ in one numeric option alone. Points are means over the seeds, "
        "bars 95 % bootstrap intervals; dashed: the plain base's score.",
        shown,
        [Key("plain base", Style("#444444", "--", ""))] if any(levels) else [],
    )


def diagnostic(
    runs: Sequence[Run],
    looks: dict[str, Style],
    metric: str,
    texts: tuple[str, str, str, str],
    level: float,
) -> Figure | None:
    """A metric over the online phase; texts: file name, heading, caption, y label."""
    drawn = [r for r in runs if metric in r.diagnostics]
    if not drawn:
        return None
    name, heading, caption, label = texts
    found = []
    for (base, task), group in panels(drawn).items():

        def draw(axes: list[Any], group: list[Run] = group) -> None:
            (axis,) = axes
            for run in group:
                series = run.diagnostics
                _curve(axis, series["step"], series[metric], looks[run.variant])
            axis.axhline(level, color="#666666", linewidth=1, linestyle="--")
            _steps(axis)
            axis.set_ylabel(label)

        found.append(Panel(_title(base, task), draw))
    said = f"{caption} {_band(drawn)}"
    return Figure(name, heading, said, found, _keys(drawn, looks), columns=_columns(drawn))


_ORIGIN_STYLES = {
    "offline": Style("#0072B2", "-", "o"),
    "online": Style("#D55E00", (0, (4, 1.5)), "s"),
}


def alignment(runs: Sequence[Run]) -> Figure | None:
    """Alignment scores of a batch's rows by origin, and the threshold that splits them."""
    have = [r for r in runs if r.method == "stratdiff" and "alignment_threshold" in r.diagnostics]
    drawn = have[:MOST_FANS]
    if not drawn:
        return None
    found = []
    for run in drawn:

        def draw(axes: list[Any], run: Run = run) -> None:
            (axis,) = axes
            series = run.diagnostics
            shown = [_across(series["alignment_threshold"])]
            for origin in ORIGINS:
                bands, middle = _fan(series, origin)
                shown += [line for band in bands for line in band] + [middle]
                style = _ORIGIN_STYLES[origin]
                for (low, high), alpha in zip(bands, (0.12, 0.24), strict=False):
                    axis.fill_between(
                        series["step"], low, high, color=style.color, alpha=alpha, linewidth=0
                    )
                axis.plot(
                    series["step"],
                    middle,
                    color=style.color,
                    linestyle=style.dash,
                    marker=style.marker,
                    markersize=3,
                    markevery=max(1, len(middle) // 8),
                )
            axis.plot(series["step"], shown[0], color="black", linestyle=":", linewidth=1.6)
            _steps(axis)
            _scale(axis, np.concatenate(shown))
            axis.set_ylabel("alignment score")

        title = f"{run.task}\n{BASES[run.base]} · {run.variant}"
        found.append(Panel(title, draw))
    left = len(have) - len(drawn)
    more = f" {left} more runs are not drawn." if left else ""
    return Figure(
        "alignment",
        "Alignment scores by origin",
        "Alignment scores of the rows of a batch over the online phase, by where the rows come "
        "from; low means offline-like. Line: median, dark band: middle half, light band: 10 % to "
        "90 % (where quantiles were not logged: mean and one standard deviation). Rows below the "
        f"dotted threshold are treated as offline-like. Means over the seeds.{more}",
        found,
        [
            Key("rows of the offline data", _ORIGIN_STYLES["offline"]),
            Key("rows collected online", _ORIGIN_STYLES["online"]),
            Key("batch threshold", Style("black", ":", "")),
        ],
        columns=3,
    )


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


def _scale(axis: Any, values: np.ndarray) -> None:
    """A logarithmic axis where the values span more than a plain one can show."""
    values = values[np.isfinite(values)]
    if not len(values):
        return
    typical, largest = float(np.median(np.abs(values))), float(np.abs(values).max())
    if values.min() > 0 and largest > 30 * values.min():
        axis.set_yscale("log")
    elif typical > 0 and largest > 30 * typical:
        axis.set_yscale("symlog", linthresh=typical)
    else:
        return
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def q_values(runs: Sequence[Run], looks: dict[str, Style]) -> Figure | None:
    """Mean Q above, evaluated return below."""
    drawn = [r for r in runs if "q_mean" in r.diagnostics and "online" in r.evaluations]
    if not drawn:
        return None
    found = []
    for (base, task), group in panels(drawn).items():

        def draw(axes: list[Any], group: list[Run] = group) -> None:
            above, below = axes
            for run in group:
                q, online = run.diagnostics, run.evaluations["online"]
                _curve(above, q["step"], q["q_mean"], looks[run.variant])
                _curve(below, online["step"], online["return"], looks[run.variant])
            below.sharex(above)
            _steps(above, "")
            _steps(below)
            above.tick_params(labelbottom=False)
            above.set_ylabel("mean Q")
            below.set_ylabel("return")

        found.append(Panel(_title(base, task), draw, 3.4))
    return Figure(
        "q_values",
        "Q-values against returns",
        "Above: mean Q of a batch's actions, in training reward units (scaled or shifted by the "
        "recipe). Below: evaluated return, in the environment's. Q that climbs while the return "
        f"does not is overestimation. {_band(drawn)}",
        found,
        _keys(drawn, looks),
        stack=2,
        columns=_columns(drawn),
    )


_PHASES = {
    "base": Key("offline base", Style("#0072B2"), ""),
    "behaviour": Key("behaviour model", Style("#E69F00"), "//"),
    "support": Key("support actions", Style("#009E73"), ""),
    "energy": Key("energy model", Style("#CC79A7"), "//"),
    "online": Key("online", Style("#D55E00"), ""),
}


def cost(runs: Sequence[Run]) -> Figure | None:
    """Wall time of each phase."""
    timed = [r for r in runs if r.about["seconds"]]
    found = []
    for (base, task), group in panels(timed).items():

        def draw(axes: list[Any], group: list[Run] = group) -> None:
            (axis,) = axes
            for y, run in enumerate(group):
                left = 0.0
                for phase, key in _PHASES.items():
                    minutes = run.about["seconds"].get(phase, 0.0) / 60
                    axis.barh(
                        y,
                        minutes,
                        left=left,
                        height=0.7,
                        color=key.style.color,
                        hatch=key.hatch,
                        edgecolor="white",
                        linewidth=0,
                    )
                    left += minutes
            axis.set_yticks(range(len(group)), [_wrapped(" " + r.variant, 20) for r in group])
            axis.set_ylim(max(len(group), 3) - 0.5, -0.5)
            axis.xaxis.set_major_locator(_ticks(4))
            axis.grid(axis="y", visible=False)
            axis.set_xlabel("minutes")

        lines = sum(1 + len(_wrapped(r.variant, 20).split("\n")) for r in group) / 2
        found.append(Panel(_title(base, task), draw, 1.1 + 0.24 * lines))
    if not found:
        return None
    return Figure(
        "cost",
        "Wall time",
        "Minutes that each phase took, all seeds of a run together, with evaluations and start-up. "
        "Offline phases that variants share count in each of them.",
        found,
        list(_PHASES.values()),
        columns=3,
    )
