"""What is in a data set: numbers, a table, and how far it is from D4RL's own."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Group, RenderableType
from rich.table import Column, Table

from stratdiff.data.dataset import Dataset
from stratdiff.tasks import Task, task_of

SATURATED = 0.999
"""An action is saturated from this absolute value on."""


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
    read: str
    """In words, what was not read by D4RL's names."""
    distance: Distance | None
    """None: D4RL's statistics of such a set are not known."""


def describe(dataset: Dataset, task: Task | None = None) -> Info:
    """Numbers about a data set. Scores need a task with reference returns."""
    task = task or task_of(dataset)
    stops, returns = dataset.episodes(sparse=task.recipe == "antmaze")
    lengths = np.diff(stops, prepend=-1)
    scores = [task.score(float(r)) for r in returns] if task.reference_returns else []
    obs = dataset.observations
    mean, std = obs.mean(0, dtype=np.float64), obs.std(0, dtype=np.float64)
    saturated = (np.abs(dataset.actions) > SATURATED).mean(0)
    return Info(
        name=dataset.name,
        env_id=dataset.env_id or task.env_id or None,
        rows=len(obs),
        transitions=len(dataset),
        episodes=len(stops),
        cut_off_rows=len(obs) - int(lengths.sum()),
        terminals=int(dataset.terminals.sum()),
        timeouts=int((dataset.ends & ~dataset.terminals).sum()),
        lengths=_spread(lengths),
        returns=_spread(returns),
        scores=_spread(np.array(scores)),
        saturated=float(saturated.mean()),
        action_saturated=saturated,
        obs_mean=mean,
        obs_std=std,
        obs_min=obs.min(0).astype(np.float64),
        obs_max=obs.max(0).astype(np.float64),
        read=str(dataset.metadata.get("read", "")),
        distance=_distance(dataset.name, mean, std),
    )


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
    return json.loads(json.dumps(dataclasses.asdict(info), default=np.ndarray.tolist))


def table(info: Info) -> RenderableType:
    """The numbers as tables of at most 80 columns."""
    facts = Table("", Column(overflow="fold"), title=info.name, show_header=False, box=None)
    facts.title_style = "bold"
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
    if info.read:
        facts.add_row("read", info.read)
    parts: list[RenderableType] = [facts]
    columns = ["mean", "std", "min", "25 %", "median", "75 %", "max"]
    spreads = Table("episodes", *(Column(c, justify="right") for c in columns))
    known = {"length": info.lengths, "return": info.returns, "score": info.scores}
    for label, spread in known.items():
        if spread is not None:
            spreads.add_row(label, *(_number(x) for x in dataclasses.astuple(spread)))
    if spreads.row_count:
        parts.append(spreads)
    columns = ["obs", "mean", "std", "min", "max"]
    if info.distance is not None:
        columns += ["|Δmean|/std*", "std/std*"]
    states = Table(*(Column(c, justify="right") for c in columns))
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
