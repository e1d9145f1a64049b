"""Split rules: which rows of a scored batch keep the conservative loss (docs/method.md, section 5).

A rule takes scores and origins and returns an order of the rows and how many of the first are
conservative: a number where the rule allows, so that conservative terms are computed on those rows
only, otherwise an array. A new rule is one class that implements `Split`.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from stratdiff.options import Fraction, NoOptions
from stratdiff.registry import Registry

Metrics = dict[str, Float[Array, ""]]

# Percentiles of the scores of each origin that are reported.
QUANTILES = (10, 25, 50, 75, 90)


class Rows(NamedTuple):
    """A batch in two strata: `batch[order]` has its conservative rows first."""

    order: Int[Array, " batch"] | slice
    conservative: int | Int[Array, ""]


@runtime_checkable
class Split(Protocol):
    """A split rule, made by `cls(options)`."""

    options: ClassVar[type]
    """Frozen dataclass of its options."""
    name: ClassVar[str]

    def init(self) -> PyTree:
        """A fresh state: what the rule remembers from batch to batch."""
        ...

    def __call__(
        self, state: PyTree, score: Float[Array, " batch"], online: Bool[Array, " batch"]
    ) -> tuple[PyTree, Rows, Metrics]:
        """(state, strata, metrics) of a batch; `online` marks rows from D_on."""
        ...


SPLITS: Registry[Split] = Registry(
    "--split", {"ratio": "stratdiff.splits:Ratio"}, ("options", "name", "init")
)


@dataclasses.dataclass(frozen=True)
class RatioOptions:
    """Of the split by a fixed ratio."""

    rho: Fraction = 0.5
    """Fraction ρ of a batch that is offline-like and keeps the conservative loss."""


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The paper's rule: the round(ρB) rows of lowest score are offline-like."""

    config: RatioOptions

    options: ClassVar[type] = RatioOptions
    name: ClassVar[str] = "ratio"

    def init(self) -> PyTree:
        """It remembers nothing."""
        return ()

    def __call__(
        self, state: PyTree, score: Float[Array, " batch"], online: Bool[Array, " batch"]
    ) -> tuple[PyTree, Rows, Metrics]:
        """Sort by score; the first round(ρB) are conservative."""
        k = offline_like_count(self.config.rho, len(score))
        return state, Rows(stable_order(score, k), k), diagnostics(score, online, k)


@dataclasses.dataclass(frozen=True)
class Whole:
    """No split, for `--score none`: every row is conservative, as in plain fine-tuning."""

    config: NoOptions

    options: ClassVar[type] = NoOptions
    name: ClassVar[str] = "whole"

    def init(self) -> PyTree:
        """It remembers nothing."""
        return ()

    def __call__(
        self, state: PyTree, score: Float[Array, " batch"], online: Bool[Array, " batch"]
    ) -> tuple[PyTree, Rows, Metrics]:
        """The batch as it is."""
        return state, Rows(slice(None), len(score)), {}


def offline_like_count(rho: float, batch: int) -> int:
    """k = round(ρB), half rounded up."""
    return int(rho * batch + 0.5 + 1e-9)  # 0.29 · 50 is a little below 14.5 in floating point


def stable_order(score: Float[Array, " batch"], k: int | Int[Array, ""]) -> Int[Array, " batch"]:
    """Permutation that puts the k rows of lowest score (the offline-like ones) first.

    Ties go by row (stable sort). Within a stratum rows keep their order, so k = B and k = 0 leave
    the batch as it is: ρ = 1 reproduces the base algorithm bit for bit.
    """
    batch = len(score)
    order = jnp.argsort(score, stable=True)
    online_like = jnp.zeros(batch, bool).at[order].set(jnp.arange(batch) >= k)
    return jnp.argsort(online_like, stable=True)


def diagnostics(
    score: Float[Array, " batch"], online: Bool[Array, " batch"], k: int | Int[Array, ""]
) -> Metrics:
    """How the split of a batch relates to where its rows came from.

    `online` marks rows from D_on. Quantities of an origin with no rows are NaN.
    """
    batch = len(score)
    offline_like = jnp.zeros(batch, bool).at[stable_order(score, k)].set(jnp.arange(batch) < k)
    exchanged = (offline_like == online).sum()
    n_online = online.sum()
    pair = online[:, None] & ~online[None, :]
    above = score[:, None] > score[None, :]
    equal = score[:, None] == score[None, :]
    auc = (pair * (above + 0.5 * equal)).sum() / (n_online * (batch - n_online))
    ordered = jnp.sort(score)
    out = {
        "exchange_count": exchanged.astype(float),
        "exchange_fraction": exchanged / batch,
        "alignment_auc": auc,
        "alignment_threshold": jnp.where(k > 0, ordered[jnp.maximum(k - 1, 0)], -jnp.inf),
    }
    for origin, rows in (("offline", ~online), ("online", online)):
        count = rows.sum()
        mean = (score * rows).sum() / count
        spread = jnp.sqrt((jnp.square(score - mean) * rows).sum() / count)
        out[f"alignment_mean_{origin}"] = mean
        out[f"alignment_std_{origin}"] = spread
        ascending = jnp.sort(jnp.where(rows, score, jnp.inf))
        for percent in QUANTILES:
            rank = jnp.round(percent / 100 * (count - 1)).astype(int)
            value = jnp.where(count > 0, ascending[jnp.maximum(rank, 0)], jnp.nan)
            out[f"alignment_q{percent}_{origin}"] = value
    return out


def split_class(name: str, score: str) -> type[Any]:
    """The split rule of a config; without a score there is nothing to split by."""
    return Whole if score == "none" else SPLITS.find(name)
