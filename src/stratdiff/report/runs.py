"""A finished run as the report sees it, how its options compare with another's, and names."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from stratdiff.agents.base import AGENTS
from stratdiff.options import flat
from stratdiff.report import statistics
from stratdiff.scores.base import SCORES

TITLES = {name: kinds.find(name).title for kinds in (AGENTS, SCORES) for name in kinds.names()}

Series = dict[str, np.ndarray]
"""`step` [points], and metrics [points, seeds]."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of one or more seeds."""

    task: str
    variant: str
    base: str
    """The base algorithm, as its option names it."""
    score: str
    """The score that splits its batches, as its option names it; `none`: the plain base."""
    config: dict[str, Any]
    seeds: tuple[int, ...]
    normalized: bool
    before: Float[np.ndarray, " seeds"]
    """Score after pre-training, before the first environment step."""
    after: Float[np.ndarray, " seeds"]
    """Score at the end."""
    about: dict[str, Any]
    """summary.json's facts: data set, seconds, updates_per_second, versions, device, revision."""
    evaluations: dict[str, Series]
    """For `base` (offline) and `online`: `score` and `return`."""
    diagnostics: Series
    """Online: means of the metrics over equal parts of the phase."""
    origin: tuple[str, ...] = ()
    """Names that can tell two runs of one name apart, nearest first."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing splits its batches."""
        return self.score == "none"

    @property
    def regret(self) -> Float[np.ndarray, " seeds"]:
        """Per seed; NaN where scores are not normalised."""
        online = self.evaluations.get("online")
        if online is None or not self.normalized:
            return np.full(len(self.seeds), np.nan)
        return statistics.regret(online["step"], online["score"])

    @property
    def late(self) -> Float[np.ndarray, " seeds"]:
        """Per seed: the mean score of the evaluations in the last quarter of the online phase.

        Less noisy than `after`, the last of them alone. NaN where there is no online phase.
        """
        online = self.evaluations.get("online")
        if online is None:
            return np.full(len(self.seeds), np.nan)
        return statistics.late(online["step"], online["score"])

    @property
    def lowest(self) -> Float[np.ndarray, " seeds"]:
        """Per seed: the lowest score of the evaluations online; NaN without an online phase."""
        online = self.evaluations.get("online")
        if online is None:
            return np.full(len(self.seeds), np.nan)
        return statistics.lowest(online["step"], online["score"])

    @property
    def spread(self) -> float:
        """Deviation over the seeds, a mean over the online phase; NaN where it is not known."""
        online = self.evaluations.get("online")
        return math.nan if online is None else statistics.spread(online["score"])

    @property
    def data_score(self) -> float:
        """Mean score of the data's trajectories; NaN where it is not known."""
        known = self.about["dataset"].get("mean_score")
        return math.nan if known is None else float(known)


Runs = Sequence[Run]


class LeftOut(NamedTuple):
    """A directory that looks like a run and cannot be used."""

    path: str
    reason: str


def clean(name: Any, longest: int = 120) -> str:
    """A name that can be shown: at most `longest` characters, none of them a control character.

    Raises:
        ValueError: it is not a string.
    """
    if not isinstance(name, str):
        raise ValueError(f"expected a name, got {name!r}")
    return "".join(c if c.isprintable() else "?" for c in name)[:longest] or "?"


def title(name: str) -> str:
    """The title of a base algorithm or score; of one from outside, `module:Name`, its `Name`."""
    return TITLES.get(name) or clean(name.rpartition(":")[2])


def options(config: dict[str, Any]) -> dict[str, Any]:
    """All options but the seeds by their dotted names."""
    known = {key: value for key, value in flat(config).items() if key != "seeds"}
    return {key: tuple(v) if isinstance(v, list) else v for key, v in known.items()}


def differing(a: Run, b: Run) -> list[str]:
    """Options whose values differ."""
    x, y = options(a.config), options(b.config)
    return sorted(k for k in x.keys() | y.keys() if x.get(k) != y.get(k))


def by_task(runs: Iterable[Run], *further: str) -> dict[tuple[str, ...], list[Run]]:
    """Runs by (base algorithm, task) and further attributes."""
    out: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        key = tuple(getattr(run, name) for name in ("base", "task", *further))
        out.setdefault(key, []).append(run)
    return out


def phases(runs: Iterable[Run]) -> list[str]:
    """Every phase that took time, in the order of the runs; one that some lack keeps its place."""
    out: list[str] = []
    for run in runs:
        place = 0
        for phase in run.about["seconds"]:
            if phase not in out:
                out.insert(place, phase)
            place = out.index(phase) + 1
    return out
