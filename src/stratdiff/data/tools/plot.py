"""A picture of a data set: returns, the course along the set, the states visited."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stratdiff.data.dataset import Dataset
from stratdiff.envs import mazes
from stratdiff.errors import UserError
from stratdiff.files import replacing
from stratdiff.tasks import Task, facts, task_of

_FORMATS = ("png", "svg", "pdf")
_BLUE, _ORANGE = "#0072B2", "#D55E00"  # distinct for every kind of colour vision
# More points than this do not change the picture.
_PLOT_ROWS = 200_000


def plot(dataset: Dataset, task: Task | None, out: str | Path) -> None:
    """Draw returns, the course along the set and the states visited; PNG, SVG or PDF by suffix.

    Scores instead of returns need a task with reference returns.

    Raises:
        UserError: the suffix is another, or the file cannot be written.
    """
    out = Path(out)
    kind = out.suffix.lower().removeprefix(".")
    if kind not in _FORMATS:
        raise UserError(
            f"plot file {str(out)!r} ends in {out.suffix or 'nothing'!r}; it must end in "
            f".{', .'.join(_FORMATS)}."
        )
    # A Figure of its own, not pyplot's, leaves no state in the calling program.
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    figure.suptitle(dataset.name, fontsize=11)
    histogram, course, coverage = figure.subplots(1, 3)
    task = task or task_of(dataset)
    returns = dataset.episodes(sparse=task.recipe == "antmaze")[1]
    values = np.array([task.score(float(r)) for r in returns])
    label = "normalised score" if task.reference_returns else "return"
    histogram.set(title="complete episodes", xlabel=label, ylabel="episodes")
    course.set(title="along the set", xlabel="episode", ylabel=label)
    for axis, draw in ((histogram, _draw_histogram), (course, _draw_course)):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        if len(values):
            draw(axis, values)
        else:
            _note(axis, "no complete episode")
    maze = facts(dataset.env_id or task.env_id).maze
    if maze and dataset.observations.shape[1] >= 2:
        _draw_maze(coverage, dataset, maze)
    else:
        _draw_states(coverage, dataset.observations)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial:
            figure.savefig(partial, dpi=140, format=kind)
    except OSError as error:
        raise UserError(
            f"plot file {str(out)!r} could not be written ({error.strerror or error}); give a "
            "path that can be written."
        ) from error


def _note(axis: Axes, text: str) -> None:
    """A sentence in place of a picture."""
    axis.set(xticks=[], yticks=[])
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes, color="#555555")


def _draw_histogram(axis: Axes, values: np.ndarray) -> None:
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6 * max(abs(low), abs(high), 1.0):
        low, high = low - 0.5, high + 0.5  # all values are equal: one bar
    bins = 1 if len(values) == 1 else int(np.clip(2 * np.sqrt(len(values)), 10, 60))
    axis.hist(values, bins=bins, range=(low, high), color=_BLUE)
    mean = float(values.mean())
    axis.axvline(mean, color=_ORANGE, linestyle="--", linewidth=1.5)
    axis.set_title(f"complete episodes (dashed: mean {mean:.1f})")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(values) == 1:
        axis.set_xticks([mean], [f"{mean:.1f}"])


def _draw_course(axis: Axes, values: np.ndarray) -> None:
    number = np.arange(1, len(values) + 1)
    size, alpha = (8, 1.0) if len(values) <= 50 else (3, 0.5)
    style: dict[str, Any] = {"color": _BLUE, "markersize": size, "alpha": alpha}
    axis.plot(number, values, ".", **style, rasterized=True, label="episode")
    window = len(values) // 20
    if window > 1:
        mean = np.convolve(values, np.full(window, 1 / window), "valid")
        centre = number[: len(mean)] + (window - 1) / 2
        axis.plot(centre, mean, color=_ORANGE, linewidth=1.5, label=f"mean of {window}")
        axis.legend(edgecolor="none")
    axis.set_xlim(0.5 - 0.02 * len(values), 0.5 + 1.02 * len(values))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _density(axis: Axes, x: np.ndarray, y: np.ndarray, bins: Any, limits: Any = None) -> None:
    """Rows a cell in log colours; empty cells stay blank."""
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=bins, range=limits)
    counts = np.ma.masked_equal(counts.T, 0)
    norm = LogNorm(vmin=1, vmax=max(float(counts.max()), 2.0))
    mesh = axis.pcolormesh(x_edges, y_edges, counts, norm=norm, cmap="viridis", rasterized=True)
    figure = axis.get_figure()
    assert figure is not None
    figure.colorbar(mesh, ax=axis, label="rows per bin")


def _draw_states(axis: Axes, obs: np.ndarray) -> None:
    """Density of the states along their two main directions (PCA of standardised states)."""
    axis.set(title="states")
    obs = obs[:: -(-len(obs) // _PLOT_ROWS)].astype(np.float64)
    std = obs.std(0)
    moving = std > 1e-6 * np.maximum(np.abs(obs).max(0), 1e-6)
    if not moving.any():
        _note(axis, "every state is the same")
        return
    obs = (obs[:, moving] - obs[:, moving].mean(0)) / std[moving]
    variance, directions = np.linalg.eigh(obs.T @ obs / len(obs))
    share = variance / variance.sum()
    x = obs @ directions[:, -1]
    y = obs @ directions[:, -2] if len(variance) > 1 else np.zeros(len(x))
    _density(axis, x, y, bins=int(np.clip(np.sqrt(len(x)), 20, 120)))
    axis.set_xlabel(f"1st principal component ({100 * share[-1]:.0f} % of variance)")
    if len(variance) > 1:
        axis.set_ylabel(f"2nd principal component ({100 * share[-2]:.0f} %)")
    else:
        axis.set_yticks([])


def _draw_maze(axis: Axes, dataset: Dataset, maze: str) -> None:
    """The maze from above with the places that were visited."""
    walls = mazes.walls(maze)
    corner = mazes.cell_xy(maze, np.array([0, 0])) - mazes.CELL / 2
    far = corner + mazes.CELL * np.array(walls.shape[::-1])
    style: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1, "origin": "lower"}
    extent = (corner[0], far[0], corner[1], far[1])
    axis.imshow(np.where(walls, 0.72, 1.0), extent=extent, **style)
    x, y = dataset.observations[:, 0], dataset.observations[:, 1]
    half_metres = np.rint(2 * (far - corner)).astype(int)
    _density(axis, x, y, half_metres, np.stack([corner, far], 1))
    for marks, marker, label in (("r", "o", "start"), ("geG", "*", "goals")):
        places = mazes.cell_xy(maze, mazes.cells(maze, marks))
        style = {"markersize": 11, "color": "white", "markeredgecolor": "black"}
        axis.plot(*places.T, marker, **style, label=label)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False)
    axis.set(title="places visited", xlabel="x (m)", ylabel="y (m)", aspect="equal")
