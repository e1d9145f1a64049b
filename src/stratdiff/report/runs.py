"""A finished run as the report sees it, and how its options compare with another's."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from stratdiff.options import flat
from stratdiff.report import statistics

Series = dict[str, np.ndarray]
"""`step` [points], and metrics [points, seeds]."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of one or more seeds."""

    task: str
    variant: str
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
    def base(self) -> str:
        """The base algorithm, as its option names it."""
        return str(self.config["base"])

    @property
    def score(self) -> str:
        """The score that splits its batches, as its option names it; `none`: the plain base."""
        return str(self.config["score"])

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


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A directory that looks like a run and cannot be used."""

    path: str
    reason: str


def options(config: dict[str, Any]) -> dict[str, Any]:
    """All options but the seeds by their dotted names."""
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in flat(config).items()}
    values.pop("seeds", None)
    return values


def differing(a: Run, b: Run) -> list[str]:
    """Options whose values differ."""
    x, y = options(a.config), options(b.config)
    return sorted(k for k in x.keys() | y.keys() if x.get(k) != y.get(k))


def by_task(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs by (base algorithm, task)."""
    out: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        out.setdefault((run.base, run.task), []).append(run)
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
