"""Estimates over seeds and tasks, with 95 % percentile-bootstrap intervals.

Means over the tasks and the interquartile mean (IQM) are bootstrapped in strata: seeds are drawn
within each task (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice"). The
random numbers are fixed, so the same scores give the same interval.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

RESAMPLES = 2000
LEVELS = (0.025, 0.975)

Points = Float[np.ndarray, " points"]
Strata = Sequence[Float[np.ndarray, "batch _"]]
Statistic = Callable[[Strata], Float[np.ndarray, " batch"]]


class Estimate(NamedTuple):
    """A number and its 95 % interval; NaN bounds: no interval, NaN value: nothing to estimate."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def has_value(self) -> bool:
        return math.isfinite(self.value)

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def mean(strata: Strata) -> Float[np.ndarray, " batch"]:
    """Mean over the tasks of the mean over the seeds."""
    return np.mean([x.mean(1) for x in strata], axis=0)


def iqm(strata: Strata) -> Float[np.ndarray, " batch"]:
    """Mean of the middle half of all runs of all tasks."""
    x = np.concatenate(list(strata), axis=1)
    cut = x.shape[1] // 4
    return np.sort(x, axis=1)[:, cut : x.shape[1] - cut].mean(1)


def improvement(strata: Strata) -> Float[np.ndarray, " batch"]:
    """Mean over the tasks of P(X > Y) + P(X = Y) / 2, Mann and Whitney's statistic over n_x n_y.

    The strata are X of the first task, Y of the first task, X of the second, and so on.
    """
    pairs = zip(strata[::2], strata[1::2], strict=True)
    differences = [x[:, :, None] - y[:, None, :] for x, y in pairs]
    return np.mean([((d > 0) + 0.5 * (d == 0)).mean((1, 2)) for d in differences], axis=0)


def bootstrap(statistic: Statistic, strata: Sequence[Float[np.ndarray, " _"]]) -> Estimate:
    """The statistic of the strata, and its interval from draws with replacement within each.

    NaN are left out. No interval where a stratum has fewer than two numbers: its spread is unknown.
    """
    strata = [x[np.isfinite(x)] for x in strata]
    if not strata or min(map(len, strata)) == 0:
        return Estimate()
    value = float(statistic([x[None] for x in strata])[0])
    if min(map(len, strata)) < 2:
        return Estimate(value)
    rng = np.random.default_rng(0)
    draws = [x[rng.integers(len(x), size=(RESAMPLES, len(x)))] for x in strata]
    low, high = np.quantile(statistic(draws), LEVELS)
    return Estimate(value, float(low), float(high))


def finite_mean(values: Float[np.ndarray, "_ _"], axis: int) -> Float[np.ndarray, " _"]:
    """Mean of the finite numbers along the axis; NaN where there are none."""
    return np.ma.masked_invalid(values).mean(axis).filled(np.nan)


def curve(values: Float[np.ndarray, "points seeds"]) -> tuple[Points, Points, Points]:
    """Mean over the seeds at each point and its interval; all points share the drawn seeds.

    NaN are left out; the interval is NaN where fewer than two seeds have a number.
    """
    points, seeds = values.shape
    drawn = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    weights = np.stack([(drawn == i).sum(1) for i in range(seeds)], axis=1).astype(float)
    finite = np.isfinite(values)
    count = weights @ finite.T
    total = weights @ np.where(finite, values, 0.0).T
    low, high = np.full(points, np.nan), np.full(points, np.nan)
    for i in np.flatnonzero(finite.sum(1) >= 2):
        some = count[:, i] > 0  # a draw of seeds without a number here says nothing of this point
        low[i], high[i] = np.quantile(total[some, i] / count[some, i], LEVELS)
    return finite_mean(values, axis=1), low, high


def regret(
    steps: Shaped[np.ndarray, " points"], scores: Float[np.ndarray, "points seeds"]
) -> Float[np.ndarray, " seeds"]:
    """Mean of 1 - score / 100 over the online phase, by trapezoids over environment steps.

    Scores are normalised ones. Nakamoto et al. 2023 (Cal-QL). NaN points are left out; NaN where
    fewer than two are left.
    """
    out = np.full(scores.shape[1], np.nan)
    for i, column in enumerate(scores.T):
        ok = np.isfinite(column)
        x = np.asarray(steps, float)[ok]
        if len(x) >= 2 and x[-1] > x[0]:
            out[i] = np.trapezoid(1 - column[ok] / 100, x) / (x[-1] - x[0])
    return out


def late(
    steps: Shaped[np.ndarray, " points"], scores: Float[np.ndarray, "points seeds"]
) -> Float[np.ndarray, " seeds"]:
    """Mean score of the evaluations after three quarters of the environment steps.

    NaN points are left out; NaN where none is left.
    """
    chosen = np.asarray(steps) > 0.75 * np.max(steps, initial=0)
    return finite_mean(scores[chosen], axis=0)


def early(
    steps: Shaped[np.ndarray, " points"], values: Float[np.ndarray, "points seeds"]
) -> Float[np.ndarray, " seeds"]:
    """Mean over the first quarter of the environment steps; otherwise as `late`."""
    chosen = np.asarray(steps) <= 0.25 * np.max(steps, initial=0)
    return finite_mean(values[chosen], axis=0)


def lowest(
    steps: Shaped[np.ndarray, " points"], scores: Float[np.ndarray, "points seeds"]
) -> Float[np.ndarray, " seeds"]:
    """Lowest score of the evaluations after the first environment step.

    NaN points are left out; NaN where none is left.
    """
    chosen = scores[np.asarray(steps) > 0]
    least = np.where(np.isfinite(chosen), chosen, np.inf).min(0, initial=np.inf)
    return np.where(np.isinf(least), np.nan, least)


def spread(scores: Float[np.ndarray, "points seeds"]) -> float:
    """Mean over the points of the sample standard deviation over the seeds.

    NaN are left out; NaN where no point has two seeds.
    """
    known = np.ma.masked_invalid(scores)
    some = known[known.count(1) >= 2]
    return float(some.std(1, ddof=1).mean()) if len(some) else math.nan
