"""What is in a data set: numbers, a table, a picture, and how far it is from D4RL's own."""

import contextlib
import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Group, RenderableType
from rich.table import Table

from stratdiff.data.dataset import Dataset
from stratdiff.envs import antmaze
from stratdiff.errors import UserError
from stratdiff.tasks import Task

SATURATED = 0.999
"""An action is saturated from this absolute value on."""
_FORMATS = ("png", "svg", "pdf")
_BLUE, _ORANGE = "#0072B2", "#D55E00"  # told apart by every kind of colour vision
# Drawing more points than this changes no pixel.
_PLOT_ROWS = 200_000


@dataclasses.dataclass(frozen=True)
class Spread:
    """A distribution in a few numbers."""

    mean: float
    std: float
    min: float
    q25: float
    median: float
    q75: float
    max: float


@dataclasses.dataclass(frozen=True)
class Distance:
    """How far the states are from those of D4RL's own file, in its standard deviations."""

    to: str
    mean_shift: Float[np.ndarray, " obs"]
    """|mean - D4RL's mean| / D4RL's std, per dimension."""
    std_ratio: Float[np.ndarray, " obs"]
    """std / D4RL's std, per dimension."""
    shift_median: float
    shift_rms: float
    shift_max: float


@dataclasses.dataclass(frozen=True)
class Info:
    """What `describe` finds."""

    name: str
    env_id: str | None
    rows: int
    transitions: int
    episodes: int
    """Complete trajectories; those that a terminal or a time limit ends."""
    cut_off_rows: int
    """Rows after the last complete trajectory."""
    terminals: int
    timeouts: int
    lengths: Spread | None
    """Rows of the complete trajectories; None: there is none."""
    returns: Spread | None
    scores: Spread | None
    """Normalised scores; None: no reference returns are known, or no complete trajectory."""
    saturated: float
    """Share of action values with |a| > `SATURATED`."""
    action_saturated: Float[np.ndarray, " act"]
    obs_mean: Float[np.ndarray, " obs"]
    obs_std: Float[np.ndarray, " obs"]
    obs_min: Float[np.ndarray, " obs"]
    obs_max: Float[np.ndarray, " obs"]
    distance: Distance | None
    """None: D4RL's statistics of such a set are not known."""


def describe(dataset: Dataset, task: Task | None) -> Info:
    """Numbers about a data set. Scores need a task with reference returns."""
    stops, returns = _episodes(dataset, task)
    lengths = np.diff(stops, prepend=-1)
    scores = _scores(returns, task) if task and task.reference_returns else np.zeros(0)
    obs = dataset.observations
    mean, std = obs.mean(0, dtype=np.float64), obs.std(0, dtype=np.float64)
    saturated = (np.abs(dataset.actions) > SATURATED).mean(0)
    return Info(
        name=dataset.name,
        env_id=dataset.env_id or (task.env_id if task else None),
        rows=len(obs),
        transitions=len(dataset),
        episodes=len(stops),
        cut_off_rows=len(obs) - int(lengths.sum()),
        terminals=int(dataset.terminals.sum()),
        timeouts=int((dataset.ends & ~dataset.terminals).sum()),
        lengths=_spread(lengths),
        returns=_spread(returns),
        scores=_spread(scores),
        saturated=float(saturated.mean()),
        action_saturated=saturated,
        obs_mean=mean,
        obs_std=std,
        obs_min=obs.min(0).astype(np.float64),
        obs_max=obs.max(0).astype(np.float64),
        distance=_distance(dataset.name, mean, std),
    )


def _episodes(dataset: Dataset, task: Task | None) -> tuple[np.ndarray, np.ndarray]:
    return dataset.episodes(sparse=task is not None and task.recipe == "antmaze")


def _scores(returns: np.ndarray, task: Task) -> np.ndarray:
    return np.array([task.score(float(r)) for r in returns])


def _spread(values: np.ndarray) -> Spread | None:
    if not len(values):
        return None
    quantiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return Spread(float(values.mean()), float(values.std()), *quantiles)


def d4rl_name(name: str) -> str:
    """`halfcheetah-medium-v2` of any name or file name of such a set, D4RL's or made here."""
    stem = re.sub(r"\.(hdf5|h5)$", "", name.replace("\\", "/").rsplit("/", 1)[-1])
    return re.sub(r"(-v2)?$", "-v2", stem.replace("_", "-"), count=1)


def _distance(name: str, mean: np.ndarray, std: np.ndarray) -> Distance | None:
    known = json.loads((Path(__file__).parent / "d4rl_v2_state_stats.json").read_text())
    true = known.get(d4rl_name(name))
    if true is None or len(true["mean"]) != len(mean):
        return None
    true_mean, true_std = np.array(true["mean"]), np.array(true["std"])
    shift = np.abs(mean - true_mean) / true_std
    return Distance(
        to=d4rl_name(name),
        mean_shift=shift,
        std_ratio=std / true_std,
        shift_median=float(np.median(shift)),
        shift_rms=float(np.sqrt((shift**2).mean())),
        shift_max=float(shift.max()),
    )


def to_dict(info: Info) -> dict[str, Any]:
    """The same as plain lists and numbers, for JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return value.tolist() if isinstance(value, np.ndarray) else value

    return plain(dataclasses.asdict(info))


def table(info: Info) -> RenderableType:
    """The numbers as tables of at most 80 columns."""
    facts = Table(title=info.name, show_header=False, box=None, title_style="bold")
    facts.add_column()
    facts.add_column(overflow="fold")
    cut = f"; {info.cut_off_rows:,} rows of one cut off" if info.cut_off_rows else ""
    per_dim = " ".join(f"{100 * s:.1f}" for s in info.action_saturated)
    for key, value in (
        ("environment", info.env_id or "not named"),
        ("rows", f"{info.rows:,}, of which {info.transitions:,} are transitions"),
        ("episodes", f"{info.episodes:,} complete{cut}"),
        ("ends", f"{info.terminals:,} terminal, {info.timeouts:,} time limit"),
        ("saturated actions", f"{100 * info.saturated:.1f} % (per dimension: {per_dim})"),
    ):
        facts.add_row(key, value)
    parts: list[RenderableType] = [facts]
    spreads = Table()
    for column in ("episodes", "mean", "std", "min", "25 %", "median", "75 %", "max"):
        spreads.add_column(column, justify="left" if column == "episodes" else "right")
    for label, spread in (
        ("length", info.lengths),
        ("return", info.returns),
        ("score", info.scores),
    ):
        if spread is not None:
            spreads.add_row(label, *(_number(x) for x in dataclasses.astuple(spread)))
    if spreads.row_count:
        parts.append(spreads)
    states = Table()
    columns = ["obs", "mean", "std", "min", "max"]
    if info.distance is not None:
        columns += ["|Δmean|/std*", "std/std*"]
    for column in columns:
        states.add_column(column, justify="right")
    numbers = [info.obs_mean, info.obs_std, info.obs_min, info.obs_max]
    for i, row in enumerate(np.stack(numbers, 1)):
        cells = [str(i), *(_number(x) for x in row)]
        if info.distance is not None:
            cells += [f"{info.distance.mean_shift[i]:.2f}", f"{info.distance.std_ratio[i]:.2f}"]
        states.add_row(*cells)
    parts.append(states)
    if info.distance is not None:
        parts.append(
            f"* of D4RL's own {info.distance.to}. |Δmean|/std*: median "
            f"{info.distance.shift_median:.2f}, RMS {info.distance.shift_rms:.2f}, max "
            f"{info.distance.shift_max:.2f}."
        )
    return Group(*parts)


def _number(value: float) -> str:
    """At most 8 characters."""
    size = abs(value)
    if size != 0 and (size < 0.005 or size >= 1e6):
        return f"{value:.2g}"
    return f"{value:.{2 if size < 100 else 1 if size < 1e4 else 0}f}"


def plot(dataset: Dataset, task: Task | None, out: str | Path) -> None:
    """Draw returns, the course along the set and the states visited; PNG, SVG or PDF by suffix.

    Raises:
        UserError: the suffix is another, or the file cannot be written.
    """
    out = Path(out)
    if out.suffix.lower().removeprefix(".") not in _FORMATS:
        raise UserError(
            f"plot file {str(out)!r} ends in {out.suffix or 'nothing'!r}; it must end in "
            f".{', .'.join(_FORMATS)}."
        )
    # A Figure of its own, not pyplot's: nothing stays behind in the program that calls this.
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    figure.suptitle(dataset.name, fontsize=11)
    histogram, course, coverage = figure.subplots(1, 3)
    normalised = task is not None and task.reference_returns is not None
    values = _episodes(dataset, task)[1]
    values = _scores(values, task) if task and normalised else values
    label = "normalised score" if normalised else "return"
    _draw_histogram(histogram, values, label)
    _draw_course(course, values, label)
    env_id = dataset.env_id or (task.env_id if task else "")
    maze = env_id.removeprefix("stratdiff/AntMaze-").removesuffix("-v2")
    if maze in antmaze.MAZES and dataset.observations.shape[1] >= 2:
        _draw_maze(coverage, dataset, maze)
    else:
        _draw_states(coverage, dataset.observations)
    for axis in (histogram, course):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(partial, dpi=140, format=out.suffix.lower().removeprefix("."))
        os.replace(partial, out)
    except OSError as error:
        raise UserError(
            f"plot file {str(out)!r} could not be written ({error.strerror or error}); give a "
            "path that can be written."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _note(axis: Axes, text: str) -> None:
    """A sentence in place of a picture."""
    axis.set(xticks=[], yticks=[])
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes, color="#555555")


def _draw_histogram(axis: Axes, values: np.ndarray, label: str) -> None:
    axis.set(title="complete episodes", xlabel=label, ylabel="episodes")
    if not len(values):
        _note(axis, "no complete episode")
        return
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6 * max(abs(low), abs(high), 1.0):
        low, high = low - 0.5, high + 0.5  # all the same: one bar
    bins = 1 if len(values) == 1 else int(np.clip(2 * np.sqrt(len(values)), 10, 60))
    axis.hist(values, bins=bins, range=(low, high), color=_BLUE)
    mean = float(values.mean())
    axis.axvline(mean, color=_ORANGE, linestyle="--", linewidth=1.5)
    axis.set_title(f"complete episodes (dashed: mean {mean:.1f})")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(values) == 1:
        axis.set_xticks([mean], [f"{mean:.1f}"])


def _draw_course(axis: Axes, values: np.ndarray, label: str) -> None:
    axis.set(title="along the set", xlabel="episode", ylabel=label)
    if not len(values):
        _note(axis, "no complete episode")
        return
    number = np.arange(1, len(values) + 1)
    axis.plot(
        number,
        values,
        linestyle="none",
        marker=".",
        markersize=8 if len(values) <= 50 else 3,
        alpha=1 if len(values) <= 50 else 0.5,
        color=_BLUE,
        rasterized=True,
        label="episode",
    )
    window = len(values) // 20
    if window > 1:
        total = np.concatenate([[0.0], np.cumsum(values)])
        mean = (total[window:] - total[:-window]) / window
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
    points = obs @ directions[:, : -3 if len(variance) > 1 else None : -1]
    x = points[:, 0]
    y = points[:, 1] if len(variance) > 1 else np.zeros(len(x))
    _density(axis, x, y, bins=int(np.clip(np.sqrt(len(x)), 20, 120)))
    axis.set_xlabel(f"1st principal component ({100 * share[-1]:.0f} % of variance)")
    if len(variance) > 1:
        axis.set_ylabel(f"2nd principal component ({100 * share[-2]:.0f} %)")
    else:
        axis.set_yticks([])


def _draw_maze(axis: Axes, dataset: Dataset, maze: str) -> None:
    """The maze from above with the places that were visited."""
    walls = antmaze.walls(maze)
    corner = antmaze.cell_xy(maze, np.array([0, 0])) - antmaze.CELL / 2
    far = corner + antmaze.CELL * np.array(walls.shape[::-1])
    extent = (corner[0], far[0], corner[1], far[1])
    axis.imshow(
        np.where(walls, 0.72, 1.0), extent=extent, origin="lower", cmap="gray", vmin=0, vmax=1
    )
    x, y = dataset.observations[:, 0], dataset.observations[:, 1]
    half_metres = [round(2 * (far[i] - corner[i])) for i in (0, 1)]
    _density(axis, x, y, half_metres, [[corner[0], far[0]], [corner[1], far[1]]])
    for marks, marker, label in (("r", "o", "start"), ("geG", "*", "goals")):
        places = antmaze.cell_xy(maze, antmaze.cells(maze, marks))
        axis.plot(
            *places.T,
            linestyle="none",
            marker=marker,
            markersize=11,
            color="white",
            markeredgecolor="black",
            label=label,
        )
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False)
    axis.set(title="places visited", xlabel="x (m)", ylabel="y (m)", aspect="equal")
