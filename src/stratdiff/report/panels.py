"""What a figure shows, as data: panels of curves, bands, dots or bars, and their legend."""

import textwrap
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from stratdiff.report.statistics import Estimate


class Style(NamedTuple):
    """A colour, and what tells lines of one colour apart, in Matplotlib's terms."""

    color: str
    dash: Any = "-"
    marker: str = "o"


class Key(NamedTuple):
    """An entry of a legend: a line, or an area where there is a hatch."""

    label: str
    style: Style
    hatch: str | None = None


class Line(NamedTuple):
    """A metric over steps."""

    style: Style
    steps: Int[np.ndarray, " points"]
    values: Float[np.ndarray, "points seeds"]


class Curves(NamedTuple):
    """Lines of means over the seeds, and bands of their intervals."""

    lines: Sequence[Line]
    ylabel: str
    xlabel: str = "environment steps"
    level: float | None = None
    """A horizontal line."""
    level_style: Style = Style("#666666", "--")


class Fans(NamedTuple):
    """Bands around a line for each group, widest first, and a threshold, over steps."""

    steps: Int[np.ndarray, " points"]
    groups: Sequence[tuple[Style, Sequence[tuple[np.ndarray, np.ndarray]], np.ndarray]]
    """Style, bands (low, high) and the line in the middle, all [points]."""
    threshold: Float[np.ndarray, " points"]
    ylabel: str


class Dots(NamedTuple):
    """Named estimates below one another."""

    rows: Sequence[tuple[str, Style, Estimate]]
    xlabel: str
    level: float | None = None
    """A vertical line; 0.5 where the estimates are probabilities."""


class Response(NamedTuple):
    """Estimates against the option that was varied."""

    points: Sequence[tuple[float, Style, Estimate]]
    xlabel: str
    ylabel: str
    level: float | None = None
    """A horizontal line."""


class Bars(NamedTuple):
    """Named bars of stacked parts."""

    rows: Sequence[tuple[str, Sequence[tuple[Key, float]]]]
    xlabel: str


Part = Curves | Fans | Dots | Response | Bars


class Panel(NamedTuple):
    """One small picture: parts from top to bottom that share their x axis."""

    title: str
    parts: Sequence[Part]
    height: float = 2.3
    """Inches."""


class Figure(NamedTuple):
    """Panels that belong together, with one legend."""

    name: str
    panels: Sequence[Panel | None]
    """None leaves a place free."""
    legend: Sequence[Key] = ()
    columns: int = 4
    remark: str = ""
    """What the caption says of these runs alone."""
    seeds: Set[int] = frozenset()
    """How many seeds a run has, for the caption of its bands."""

    @property
    def stack(self) -> int:
        """Parts of a panel."""
        return max(len(panel.parts) for panel in self.panels if panel)


def wrapped(text: str, width: int = 20) -> str:
    """The text in lines of at most `width` characters, or of what fits beside a row."""
    return "\n".join(textwrap.fill(part, width) for part in text.split("\n"))


def rows_height(names: Sequence[str], around: float) -> float:
    """Inches of a panel with a row a name, `around` of them for what is above and below."""
    return around + 0.24 * sum(2 + wrapped(name).count("\n") for name in names) / 2
