"""The control that decides what a score is worth: where a row came from, which is known for free.

It follows APL, which splits whole batches by origin (Zheng et al. 2023, arXiv 2303.07693).
"""

from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from stratdiff.data.batch import Batch
from stratdiff.scores.base import AgentView, Stateless


class Origin(Stateless):
    """1 for rows of D_on, 0 for rows of D_off.

    Ties go by row, which is at random: a batch is a random sample of either origin.
    """

    name = "origin"
    title = "origin"

    def score(
        self, state: PyTree, agent: AgentView, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, " batch"]:
        """The origin."""
        return batch.online.astype(float)
