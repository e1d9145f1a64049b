"""The control: rows in random order."""

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from stratdiff.data.batch import Batch
from stratdiff.scores.base import AgentView, Stateless


class Random(Stateless):
    """Uniform random numbers."""

    name = "random"
    title = "random"

    def score(
        self, state: PyTree, agent: AgentView, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, " batch"]:
        """U(0, 1) for every row."""
        return jax.random.uniform(key, batch.online.shape)
