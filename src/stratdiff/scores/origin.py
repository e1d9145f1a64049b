"""The control that decides what a score is worth: where a row came from, which is known for free.

It follows APL, which splits whole batches by origin (Zheng et al. 2023, arXiv 2303.07693).
"""

import dataclasses
from typing import ClassVar

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from stratdiff.data.batch import Batch
from stratdiff.options import Fraction
from stratdiff.scores.base import AgentView, Stateless


@dataclasses.dataclass(frozen=True)
class OriginOptions:
    """Of the score by origin."""

    origin_flips: Fraction = 0.0
    """Probability that a row counts as one of the other origin, by chance at every update."""


@dataclasses.dataclass(frozen=True)
class Origin(Stateless):
    """1 for rows of D_on, 0 for rows of D_off.

    Ties go by row, which is at random: a batch is a random sample of either origin. With
    `origin_flips` rows change sides as a score would exchange them, but by chance; after the split
    they are a little fewer, as it keeps the number of conservative rows (0.25: about 0.22).
    """

    config: OriginOptions

    options: ClassVar[type] = OriginOptions
    name = "origin"
    title = "origin"

    def score(
        self, state: PyTree, agent: AgentView, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, " batch"]:
        """The origin, or the other one."""
        online = batch.online
        if self.config.origin_flips:
            online ^= jax.random.bernoulli(key, self.config.origin_flips, online.shape)
        return online.astype(float)
