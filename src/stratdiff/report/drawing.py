"""Figures as SVG and PNG files, and their panels as SVG that a page can reflow.

The only module of the report that loads Matplotlib.
"""

import contextlib
import functools
import io
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from stratdiff.report import statistics
from stratdiff.report.panels import Bars, Curves, Dots, Fans, Figure, Key, Response, wrapped

PANEL_INCHES = 3.4  # width on the page
PNG_DPI = 200

_RC = matplotlib.rc_params_from_file(
    Path(__file__).with_name("figures.mplstyle"), use_default_template=False
)


class Shown(NamedTuple):
    """A panel as a page shows it."""

    title: str
    width: float
    """Points; the same for all panels of a figure."""
    box: str
    """The viewBox of an <svg> element."""
    content: str


def save(figure: Figure, folder: Path) -> list[Shown]:
    """Write NAME.svg and NAME.png; the panels, cut out of the SVG."""
    with _drawn(figure) as (canvas, cells):
        svg = _svg(canvas)
        (folder / f"{figure.name}.svg").write_text(svg, encoding="utf-8")
        canvas.set_dpi(PNG_DPI)
        path = folder / f"{figure.name}.png"
        FigureCanvasAgg(canvas).print_png(path, metadata={"Software": None})
    if _columns(figure) == 1:  # for its legend it is wider than a page shows a panel
        with _drawn(figure, with_legend=False) as (canvas, cells):
            svg = _svg(canvas)
    return _cut(svg, figure, cells)


def _columns(figure: Figure) -> int:
    return max(1, min(figure.columns, len(figure.panels)))


@contextlib.contextmanager
def _drawn(figure: Figure, with_legend: bool = True) -> Iterator[tuple[Canvas, list[Bbox]]]:
    """The panels in one picture, and the part of it that each has to itself."""
    shown, stack, columns = figure.panels, figure.stack, _columns(figure)
    legend = figure.legend if with_legend else []
    rows = math.ceil(len(shown) / columns)
    width = {1: 4.8 if with_legend else PANEL_INCHES, 2: 7.0}.get(columns, 9.0)
    heights = [max(p.height for p in shown[r * columns :][:columns] if p) for r in range(rows)]
    rc: Any = {**_RC, "svg.hashsalt": figure.name}
    with matplotlib.rc_context(rc), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script the font lacks
        # With 72 dots an inch a dot is a point, as in SVG.
        canvas = Canvas(figsize=(width, sum(heights) + (0.4 if legend else 0.0)), dpi=72)
        FigureCanvasSVG(canvas)  # whatever is measured is measured as SVG
        axes = canvas.subplots(rows * stack, columns, squeeze=False)
        places = axes.reshape(rows, stack, columns).swapaxes(1, 2).reshape(-1, stack)
        for i, (own, panel) in enumerate(itertools.zip_longest(places, shown)):
            if panel is None:
                for axis in own:
                    axis.set_axis_off()
                continue
            for j, (axis, part) in enumerate(zip(own, panel.parts, strict=True)):
                _draw(part, axis)
                axis.set_gid(f"panel_{i}_{j}")
            for axis in own[1:]:
                axis.sharex(own[0])
            for axis in own[:-1]:
                axis.tick_params(labelbottom=False)
                axis.set_xlabel("")
            text = wrapped(panel.title, 26 if columns > 3 else 34)
            own[0].set_title(text, loc="left", linespacing=1.15)
        below = 0.0
        if legend:
            handles = [_handle(key) for key in legend]
            labels = [wrapped(" " + key.label, 34) for key in legend]
            look: Any = {"ncols": min(len(legend), 5 if columns > 2 else 3), "frameon": False}
            # "outside" is for Matplotlib's own layouts, and sets the legend to the edge.
            look |= {"loc": "outside lower center", "borderaxespad": _PAD / _RC["legend.fontsize"]}
            below = canvas.legend(handles, labels, **look).get_window_extent().height + 2 * _PAD
        ratios = np.repeat(np.array(heights) / stack, stack)
        yield canvas, _arrange(canvas, axes, ratios, below, stack)


_PAD = 3.0  # points


def _arrange(
    canvas: Canvas, axes: np.ndarray, ratios: np.ndarray, below: float, stack: int
) -> list[Bbox]:
    """Give the axes their places above the lowest points; the part that each panel has to itself.

    Matplotlib's constrained layout does the same, but measures everything twice and says nothing of
    the parts.
    """
    around = np.zeros((4, *axes.shape))
    for place, axis in np.ndenumerate(axes):
        inner, outer = axis.get_window_extent(), axis.get_tightbbox(for_layout_only=True)
        around[(slice(None), *place)] = [*(inner.p0 - outer.p0), *(outer.p1 - inner.p1)]
    around += _PAD
    left, right = around[[0, 2]].max(1)
    low, high = around[[1, 3]].max(2)
    width, height = canvas.bbox.size
    wide = max(1.0, (width - sum(left + right)) / len(left))
    tall = np.maximum(1.0, (height - below - sum(low + high)) * ratios / sum(ratios))
    x = np.cumsum(left + wide + right) - wide - right
    ends = np.cumsum([0.0, *(high + tall + low)])  # of rows, from the top
    for (row, column), axis in np.ndenumerate(axes):
        y = height - ends[row + 1] + low[row]
        size = (wide / width, tall[row] / height)
        axis.set_position((x[column] / width, y / height, *size))
    # All of one size, so that all are shown at one scale.
    sides = [(start - max(left), start + wide + max(right)) for start in x]
    rows = itertools.pairwise(ends[::stack])
    return [Bbox([(x0, y0), (x1, y1)]) for y0, y1 in rows for x0, x1 in sides]


def _handle(key: Key) -> Any:
    s = key.style
    if key.hatch is not None:
        return Patch(facecolor=s.color, hatch=key.hatch, edgecolor="white", linewidth=0)
    return Line2D([], [], color=s.color, linestyle=s.dash, marker=s.marker, markersize=4)


def _svg(canvas: Canvas) -> str:
    text = io.StringIO()
    FigureCanvasSVG(canvas).print_svg(text, metadata={"Date": None, "Creator": None})
    # Within tags, hundredths of a point will do.
    return re.sub(r"<[^>]+>", lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), text.getvalue())


_GROUP = re.compile(r'^  <g id="panel_(\d+)_\d+">\n.*?^  </g>\n', re.M | re.S)
_DEFINED = re.compile(r'<path id="([^"]+)[^>]*/>|<(clipPath|pattern) id="([^"]+).*?</\2>', re.S)
# Text holds neither < nor >, so that these find attributes alone.
_REFERS = re.compile(r'(url\(#|href="#)([^")]+)(?=[^<>]*>)')
_ID = re.compile(r' id="([^"]*)"(?=[^<>]*>)')


def _cut(svg: str, figure: Figure, cells: Sequence[Bbox]) -> list[Shown]:
    """The panels of a drawn figure, each with what it refers to, under ids of its own."""
    defined = {m[1] or m[3]: m[0] for m in _DEFINED.finditer(svg)}
    groups = [""] * len(figure.panels)  # a panel's parts have one each
    for m in _GROUP.finditer(svg):
        groups[int(m[1])] += re.sub(r"<defs>.*?</defs>\s*", "", m[0], flags=re.S)
    out = []
    for i, (panel, cell, group) in enumerate(zip(figure.panels, cells, groups, strict=False)):
        if panel is None:
            continue
        used = dict.fromkeys(m[2] for m in _REFERS.finditer(group))
        definitions = _ID.sub(rf' id="\1-{i}"', "".join(defined[name] for name in used))
        drawn = _REFERS.sub(rf"\1\2-{i}", _ID.sub("", group))
        box = " ".join(f"{number:.2f}" for number in cell.bounds)
        content = f"<defs>{definitions}</defs>\n{drawn}"
        out.append(Shown(panel.title, round(float(cell.width), 2), box, content))
    return out


@functools.singledispatch
def _draw(part: Any, axis: Any) -> None:
    raise TypeError(f"no part of a panel: {part!r}")


@_draw.register
def _curves(part: Curves, axis: Any) -> None:
    for line in part.lines:
        if len(line.steps):
            middle, low, high = statistics.curve(line.values)
            _line(axis, line.steps, middle, line.style, linewidth=1.5)
            band = {"color": line.style.color, "alpha": 0.17, "linewidth": 0}
            axis.fill_between(line.steps, low, high, **band)
    if part.level is not None:
        look = part.level_style
        width = 1.2 if look.dash == ":" else 1
        axis.axhline(part.level, color=look.color, linestyle=look.dash, linewidth=width)
    _step_axis(axis, part.xlabel)
    axis.set_ylabel(part.ylabel)


@_draw.register
def _fans(part: Fans, axis: Any) -> None:
    values = [part.threshold]
    for style, bands, middle in part.groups:
        values += [*itertools.chain(*bands), middle]
        for (low, high), alpha in zip(bands, (0.12, 0.24), strict=False):
            axis.fill_between(part.steps, low, high, color=style.color, alpha=alpha, linewidth=0)
        _line(axis, part.steps, middle, style)
    axis.plot(part.steps, part.threshold, color="black", linestyle=":", linewidth=1.6)
    _step_axis(axis)
    _scale(axis, np.concatenate(values))
    axis.set_ylabel(part.ylabel)


@_draw.register
def _dots(part: Dots, axis: Any) -> None:
    for y, (_, style, e) in enumerate(part.rows):
        if e.has_interval:
            axis.plot([e.low, e.high], [y, y], color=style.color, linewidth=2)
        axis.plot([e.value], [y], color=style.color, marker=style.marker, markersize=5)
    if part.level is not None:
        axis.axvline(part.level, color="#666666", linewidth=1, linestyle="--")
    if part.level == 0.5:  # a probability
        axis.set_xlim(-0.02, 1.02)
    _name_rows(axis, [name for name, _, _ in part.rows])
    axis.set_xlabel(part.xlabel)


@_draw.register
def _response(part: Response, axis: Any) -> None:
    xs = [x for x, _, _ in part.points]
    axis.plot(xs, [e.value for _, _, e in part.points], color="#0072B2", linewidth=1, alpha=0.6)
    for x, style, e in part.points:
        if e.has_interval:
            axis.plot([x, x], [e.low, e.high], color=style.color, linewidth=1.8)
        axis.plot([x], [e.value], color=style.color, marker=style.marker, markersize=5)
    if part.level is not None:
        axis.axhline(part.level, color="#444444", linestyle="--", linewidth=1)
    if min(xs) > 0 and max(xs) / min(xs) > 20:
        axis.set_xscale("log")
    elif len(set(xs)) <= 6:
        axis.set_xticks(sorted(set(xs)), [f"{x:g}" for x in sorted(set(xs))])
    axis.set_xlabel(part.xlabel)
    axis.set_ylabel(part.ylabel)
    axis.yaxis.set_major_locator(_ticks(5))


@_draw.register
def _bars(part: Bars, axis: Any) -> None:
    for y, (_, stacked) in enumerate(part.rows):
        left = 0.0
        for key, value in stacked:
            look = {"color": key.style.color, "hatch": key.hatch, "edgecolor": "white"}
            axis.barh(y, value, left=left, height=0.7, linewidth=0, **look)
            left += value
    _name_rows(axis, [name for name, _ in part.rows])
    axis.set_xlabel(part.xlabel)


def _line(axis: Any, steps: Any, values: Any, style: Any, **options: Any) -> None:
    look = {"color": style.color, "linestyle": style.dash, "marker": style.marker}
    every = max(1, len(steps) // 8)
    axis.plot(steps, values, markersize=3, markevery=every, **look, **options)


def _name_rows(axis: Any, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), [wrapped(" " + name) for name in names])
    axis.set_ylim(max(len(names), 3) - 0.5, -0.5)
    axis.xaxis.set_major_locator(_ticks(4))
    axis.grid(axis="y", visible=False)


def _ticks(most: int) -> MaxNLocator:
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


def _step_axis(axis: Any, label: str = "environment steps") -> None:
    axis.xaxis.set(major_formatter=EngFormatter(sep=""), major_locator=_ticks(5))
    axis.yaxis.set_major_locator(_ticks(5))
    axis.set_xlabel(label)


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
    axis.yaxis.set(major_formatter=lambda v, _: f"{v:g}", minor_formatter=NullFormatter())
