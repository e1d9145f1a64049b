"""Figures as SVG and PNG files, and panel by panel as SVG that a page can reflow.

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
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from stratdiff.report import statistics
from stratdiff.report.panels import Bars, Curves, Dots, Fans, Figure, Key, Panel, Response, wrapped

PANEL_INCHES = 3.4  # width on the page
PNG_DPI = 200

_RC = matplotlib.rc_params_from_file(
    Path(__file__).with_name("figures.mplstyle"), use_default_template=False
)


def save(figure: Figure, folder: Path) -> None:
    """Write NAME.svg and NAME.png."""
    with _drawn(figure, figure.panels, figure.columns) as canvas:
        (folder / f"{figure.name}.svg").write_text(_svg(canvas), encoding="utf-8")
        canvas.set_layout_engine("none")  # it is laid out by now
        canvas.set_dpi(PNG_DPI)
        path = folder / f"{figure.name}.png"
        FigureCanvasAgg(canvas).print_png(path, metadata={"Software": None})


def panel_svgs(figure: Figure) -> list[tuple[str, str, str]]:
    """Of each panel its title, and the viewBox and content of an <svg> element."""
    out = []
    for i, panel in enumerate(figure.panels):
        if panel:
            with _drawn(figure, [panel], 1, alone=str(i)) as canvas:
                out.append((panel.title, *_inline(_svg(canvas))))
    return out


@contextlib.contextmanager
def _drawn(
    figure: Figure, shown: Sequence[Panel | None], columns: int, alone: str = ""
) -> Iterator[Canvas]:
    """The panels in one picture with the legend, or one that is `alone` and has it elsewhere."""
    columns = max(1, min(columns, len(shown)))
    rows = math.ceil(len(shown) / columns)
    stack, legend = figure.stack, [] if alone else figure.legend
    width = {1: PANEL_INCHES if alone else 4.8, 2: 7.0}.get(columns, 9.0)
    heights = [max(p.height for p in shown[r * columns :][:columns] if p) for r in range(rows)]
    rc: Any = {**_RC, "svg.hashsalt": f"{figure.name}{alone}"}
    with matplotlib.rc_context(rc), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script the font lacks
        size = (width, sum(heights) + (0.4 if legend else 0.0))
        canvas = Canvas(figsize=size, layout="constrained")
        ratios = [height / stack for height in heights for _ in range(stack)]
        axes = canvas.subplots(rows * stack, columns, squeeze=False, height_ratios=ratios)
        places = axes.reshape(rows, stack, columns).swapaxes(1, 2).reshape(-1, stack)
        for own, panel in itertools.zip_longest(places, shown):
            if panel is None:
                for axis in own:
                    axis.set_axis_off()
                continue
            for axis, part in zip(own, panel.parts, strict=True):
                _draw(part, axis)
            for axis in own[1:]:
                axis.sharex(own[0])
            for axis in own[:-1]:
                axis.tick_params(labelbottom=False)
                axis.set_xlabel("")
            text = wrapped(panel.title, 26 if columns > 3 else 34)
            own[0].set_title(text, loc="left", linespacing=1.15)
        if legend:
            handles = [_handle(key) for key in legend]
            labels = [wrapped(" " + key.label, 34) for key in legend]
            look: Any = {"ncols": min(len(legend), 5 if columns > 2 else 3), "frameon": False}
            canvas.legend(handles, labels, loc="outside lower center", **look)
        yield canvas


def _handle(key: Key) -> Any:
    s = key.style
    if key.hatch is not None:
        return Patch(facecolor=s.color, hatch=key.hatch, edgecolor="white", linewidth=0)
    return Line2D([], [], color=s.color, linestyle=s.dash, marker=s.marker, markersize=4)


def _svg(canvas: Canvas) -> str:
    text = io.StringIO()
    # Unlike savefig, which draws everything a first time for the layout alone.
    FigureCanvasSVG(canvas).print_svg(text, metadata={"Date": None, "Creator": None})
    # Within tags, hundredths of a point will do.
    return re.sub(r"<[^>]+>", lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), text.getvalue())


def _inline(svg: str) -> tuple[str, str]:
    """An SVG file's viewBox and its content, to be put into a page that holds others."""
    opening, rest = svg[svg.index("<svg") :].split(">", 1)
    # The style would hold for the whole page.
    rest = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", rest, flags=re.S)
    # Ids such as axes_1 are the same in every figure, and nothing refers to them.
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", rest))
    rest = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", rest)
    return opening.split('viewBox="')[1].split('"')[0], rest.removesuffix("\n")[: -len("</svg>")]


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
