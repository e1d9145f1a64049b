"""A split rule whose number of conservative rows depends on the data.

Put this folder on PYTHONPATH and name the class:

    stratdiff train --split threshold:Threshold --threshold-deviations 0.5

A row is conservative if its score is at most m + d·σ, where m and σ are the running mean and
standard deviation of the scores of rows from D_off. So the share of conservative rows follows from
how much the online rows look like D_off, where `--split ratio` fixes it.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from stratdiff.options import Decay
from stratdiff.splits import Rows, SplitRule, conservative_first, diagnostics


@dataclasses.dataclass(frozen=True)
class ThresholdOptions:
    """Of the split by a threshold."""

    threshold_deviations: float = 1.0
    """Standard deviations d between the mean score of offline rows and the threshold."""
    threshold_decay: Decay = 0.99
    """Weight of what was before in the running mean and deviation; 0: each batch on its own."""


class Moments(NamedTuple):
    """Exponential averages over the batches so far, not yet divided by their total weight."""

    weight: jax.Array
    mean: jax.Array
    square: jax.Array


def follow(moments, score, offline, decay):
    """The moments after a batch: scores [B], of which those marked by `offline` [B] count."""
    count = offline.sum()
    share = jnp.where(count > 0, 1 - decay, 0.0)
    means = [jnp.where(offline, x, 0.0).sum() / jnp.maximum(count, 1) for x in (score, score**2)]
    new = Moments(jnp.ones(()), *means)
    return jax.tree.map(lambda old, now: (1 - share) * old + share * now, moments, new)


def threshold(moments, deviations):
    """m + d·σ; infinite, so that all rows are conservative, before the first offline row."""
    mean, square = moments.mean / moments.weight, moments.square / moments.weight
    deviation = jnp.sqrt(jnp.maximum(square - mean**2, 0.0))
    return jnp.where(moments.weight > 0, mean + deviations * deviation, jnp.inf)


class Threshold(SplitRule):
    """The `Split`."""

    options = ThresholdOptions
    name = "threshold"

    def init(self):
        """No batch seen."""
        return Moments(*jnp.zeros(3))

    def __call__(self, state, score, online):
        """Follow the offline rows' scores, then split; the number of rows is an array."""
        c = self.config
        state = follow(state, score, ~online, c.threshold_decay)
        offline_like = score <= threshold(state, c.threshold_deviations)
        rows = Rows(conservative_first(offline_like), offline_like.sum())
        return state, rows, diagnostics(score, online, offline_like)
