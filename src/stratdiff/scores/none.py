"""No score: plain fine-tuning of the base algorithm, every row conservative."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from stratdiff.data.batch import Batch
from stratdiff.scores.base import AgentView, Stateless


class NoScore(Stateless):
    """All rows alike."""

    name = "none"
    title = "plain"

    def score(
        self, state: PyTree, agent: AgentView, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, " batch"]:
        """0 for every row."""
        return jnp.zeros(batch.online.shape)
