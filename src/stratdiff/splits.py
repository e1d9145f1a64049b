"""Split rules: which rows of a scored batch keep the conservative loss (docs/method.md, section 5).

A rule takes scores and origins and returns an order of the rows and how many of the first are
conservative: a number where the rule allows, so that conservative terms are computed on those rows
only, otherwise an array. A new rule is one class that implements `Split`.
"""

import dataclasses
import math
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from stratdiff.options import INFINITE, Fraction, NoOptions, Rule
from stratdiff.registry import Registry

Metrics = dict[str, Float[Array, ""]]

# Percentiles of the scores of each origin that are reported.
QUANTILES = (10, 25, 50, 75, 90)
# Weight of the batches before in the window of `Exchange`: it is about ten batches long.
WINDOW_DECAY = 0.9
# Least variance of the scores of an origin, relative to 1 + their mean square.
MIN_VARIANCE = 1e-6
# Scores beyond it have no square in float32.
LARGEST = 1e18


class Rows(NamedTuple):
    """A batch in two strata: `batch[order]` has its conservative rows first."""

    order: Int[Array, " batch"] | slice
    conservative: int | Int[Array, ""]


@runtime_checkable
class Split(Protocol):
    """A split rule, made by `cls(options, score)`; `score` is the `Score` whose numbers it gets.

    `SplitRule` has what most rules share.
    """

    options: ClassVar[type]
    """Frozen dataclass of its options."""
    name: ClassVar[str]

    @staticmethod
    def uses_scores(options: Any) -> bool:
        """Whether it reads the scores; if not, none is trained or computed."""
        ...

    def init(self) -> PyTree:
        """A fresh state: what the rule remembers from batch to batch."""
        ...

    def __call__(
        self, state: PyTree, score: Float[Array, " batch"], online: Bool[Array, " batch"]
    ) -> tuple[PyTree, Rows, Metrics]:
        """(state, strata, metrics) of a batch; `online` marks rows from D_on."""
        ...


SPLITS: Registry[Split] = Registry(
    "--split",
    {"ratio": "stratdiff.splits:Ratio", "exchange": "stratdiff.splits:Exchange"},
    ("options", "name", "uses_scores", "init"),
)


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """What split rules share: options, the score, and nothing to remember."""

    config: Any
    score: Any = None

    @staticmethod
    def uses_scores(options: Any) -> bool:
        """It does."""
        return True

    def init(self) -> PyTree:
        """It remembers nothing."""
        return ()


@dataclasses.dataclass(frozen=True)
class RatioOptions:
    """Of the split by a fixed ratio."""

    rho: Fraction = 0.5
    """Fraction ρ of a batch that is offline-like and keeps the conservative loss."""


class Ratio(SplitRule):
    """The paper's rule: the round(ρB) rows of lowest score are offline-like."""

    config: RatioOptions

    options: ClassVar[type] = RatioOptions
    name: ClassVar[str] = "ratio"

    def __call__(
        self, state: PyTree, score: Float[Array, " batch"], online: Bool[Array, " batch"]
    ) -> tuple[PyTree, Rows, Metrics]:
        """Sort by score; the first round(ρB) are conservative."""
        k = offline_like_count(self.config.rho, len(score))
        offline_like = lowest(score, k)
        rows = Rows(conservative_first(offline_like), k)
        return state, rows, diagnostics(score, online, offline_like)


@dataclasses.dataclass(frozen=True)
class ExchangeOptions:
    """Of the split by origin with exchanges."""

    exchange_odds: Annotated[
        float, INFINITE, Rule(lambda x: x >= 1, "1 or more; inf: no exchanges")
    ] = 3.0
    """Odds K that a row needs to leave the side of its origin; inf: the split by origin alone."""


class Window(NamedTuple):
    """Running number, mean and variance of the scores of rows from D_off and from D_on."""

    weight: Float[Array, "2"]
    mean: Float[Array, "2"]
    variance: Float[Array, "2"]


class Exchange(SplitRule):
    """Every row starts on the side of its origin and leaves it where its score says so.

    One Gaussian is fitted to the scores of each origin (on the scale of `Score.normal`) over about
    ten batches. A row of D_off becomes online-like where its odds N(score; on) / N(score; off) are
    above K, a row of D_on offline-like where they are below 1/K. See docs/method.md, section 5.
    """

    config: ExchangeOptions

    options: ClassVar[type] = ExchangeOptions
    name: ClassVar[str] = "exchange"

    @staticmethod
    def uses_scores(options: ExchangeOptions) -> bool:
        """Unless K is infinite."""
        return math.isfinite(options.exchange_odds)

    def init(self) -> PyTree:
        """No batch seen."""
        return Window(*jnp.zeros((3, 2))) if self.uses_scores(self.config) else ()

    def __call__(
        self, state: PyTree, score: Float[Array, " batch"], online: Bool[Array, " batch"]
    ) -> tuple[PyTree, Rows, Metrics]:
        """Follow the scores of both origins, then exchange; the number of rows is an array."""
        if not self.uses_scores(self.config):
            return (), *_by_side(score, online, ~online)
        value = self.score.normal(score)
        state = follow(state, value, online)
        odds = log_odds(state, value)
        # Nothing is exchanged before rows of both origins were seen.
        needed = jnp.where((state.weight > 0).all(), jnp.log(self.config.exchange_odds), jnp.inf)
        offline_like = jnp.where(online, odds < -needed, ~(odds > needed))
        rows, metrics = _by_side(score, online, offline_like)
        for i, origin in enumerate(("offline", "online")):
            seen = jnp.where(state.weight[i] > 0, 1.0, jnp.nan)
            metrics[f"exchange_mean_{origin}"] = seen * state.mean[i]
            metrics[f"exchange_std_{origin}"] = seen * jnp.sqrt(state.variance[i])
        return state, rows, metrics | {"posterior_auc": auc(odds, online)}


class Whole(SplitRule):
    """No split, for `--score none`: every row is conservative, as in plain fine-tuning."""

    options: ClassVar[type] = NoOptions
    name: ClassVar[str] = "whole"

    def __call__(
        self, state: PyTree, score: Float[Array, " batch"], online: Bool[Array, " batch"]
    ) -> tuple[PyTree, Rows, Metrics]:
        """The batch as it is."""
        return state, Rows(slice(None), len(score)), {}


def _by_side(
    score: Float[Array, " batch"],
    online: Bool[Array, " batch"],
    offline_like: Bool[Array, " batch"],
) -> tuple[Rows, Metrics]:
    rows = Rows(conservative_first(offline_like), offline_like.sum())
    return rows, diagnostics(score, online, offline_like)


def follow(window: Window, value: Float[Array, " batch"], online: Bool[Array, " batch"]) -> Window:
    """The window after a batch: rows of earlier batches count `WINDOW_DECAY` as much each time.

    A score that is not finite, or whose square would not be, is left out.
    """
    known = jnp.abs(value) < LARGEST
    value = jnp.where(known, value, 0.0)
    rows = jnp.stack([~online & known, online & known])
    count = rows.sum(1)
    mean = (rows * value).sum(1) / jnp.maximum(count, 1)
    variance = (rows * jnp.square(value - mean[:, None])).sum(1) / jnp.maximum(count, 1)
    weight = WINDOW_DECAY * window.weight + count
    share = jnp.where(count > 0, count / weight, 0.0)
    delta = mean - window.mean
    return Window(
        weight,
        window.mean + share * delta,
        (1 - share) * (window.variance + share * jnp.square(delta)) + share * variance,
    )


def log_odds(window: Window, value: Float[Array, " batch"]) -> Float[Array, " batch"]:
    """log N(value; on) - log N(value; off), with the window's Gaussians."""
    least = MIN_VARIANCE * (1 + jnp.square(window.mean))
    variance = jnp.maximum(window.variance, least)[:, None]
    off, on = -0.5 * (jnp.square(value - window.mean[:, None]) / variance + jnp.log(variance))
    return on - off


def offline_like_count(rho: float, batch: int) -> int:
    """k = round(ρB), half rounded up."""
    return int(rho * batch + 0.5 + 1e-9)  # 0.29 · 50 is a little below 14.5 in floating point


def lowest(score: Float[Array, " batch"], k: int) -> Bool[Array, " batch"]:
    """Which rows are the k of lowest score; of equal scores the earlier row counts as lower."""
    rank, order = jnp.arange(len(score)), jnp.argsort(score, stable=True)
    return jnp.zeros(len(score), bool).at[order].set(rank < k, unique_indices=True)


def conservative_first(offline_like: Bool[Array, " batch"]) -> Int[Array, " batch"]:
    """Permutation that puts the offline-like rows first.

    Within a stratum rows keep their order, so a batch that is of one kind stays as it is: ρ = 1
    reproduces the base algorithm bit for bit.
    """
    first = jnp.cumsum(offline_like)
    later = first[-1] + jnp.cumsum(~offline_like)
    place = jnp.where(offline_like, first, later) - 1
    row = jnp.arange(len(offline_like))
    return jnp.zeros_like(row).at[place].set(row, unique_indices=True)


def auc(value: Float[Array, " batch"], online: Bool[Array, " batch"]) -> Float[Array, ""]:
    """Probability that a row of D_on has a higher value than one of D_off; NaN without a pair."""
    pair = online[:, None] & ~online[None, :]
    above = value[:, None] > value[None, :]
    equal = value[:, None] == value[None, :]
    n_online = online.sum()
    return (pair * (above + 0.5 * equal)).sum() / (n_online * (len(value) - n_online))


def diagnostics(
    score: Float[Array, " batch"],
    online: Bool[Array, " batch"],
    offline_like: Bool[Array, " batch"],
) -> Metrics:
    """How the split of a batch relates to where its rows came from.

    `online` marks rows from D_on, `offline_like` the conservative rows. Quantities of an origin
    with no rows are NaN.
    """
    exchanged = (offline_like == online).sum()
    out = {
        "exchange_count": exchanged.astype(float),
        "exchange_fraction": exchanged / len(score),
        "conservative_fraction": offline_like.mean(),
        "alignment_auc": auc(score, online),
        "alignment_threshold": jnp.where(offline_like, score, -jnp.inf).max(),
    }
    order = jnp.argsort(score, stable=True)
    ascending = score[order]
    for origin, rows in (("offline", ~online), ("online", online)):
        count, passed = rows.sum(), jnp.cumsum(rows[order])
        mean = (score * rows).sum() / count
        spread = jnp.sqrt((jnp.square(score - mean) * rows).sum() / count)
        out[f"alignment_mean_{origin}"] = mean
        out[f"alignment_std_{origin}"] = spread
        for percent in QUANTILES:
            rank = jnp.round(percent / 100 * (count - 1)).astype(int)
            place = (passed <= rank).sum()  # of the row with that many of its origin below it
            value = jnp.where(count > 0, ascending[place], jnp.nan)
            out[f"alignment_q{percent}_{origin}"] = value
    return out


def split_class(name: str, score: str) -> type[Any]:
    """The split rule of a config; without a score there is nothing to split by."""
    return Whole if score == "none" else SPLITS.find(name)
