"""Likelihood ratio of the current policy and the behaviour policy: the best test between the two.

See docs/method.md, section 4.
"""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from stratdiff.data.batch import Batch
from stratdiff.scores.base import AgentView
from stratdiff.scores.behaviour import BehaviourOptions, BehaviourScore, Models
from stratdiff.scores.support import support_alignment


class Likelihood(BehaviourScore):
    """log π(a|s) - log μ(a|s), with the density of the unweighted support actions as μ."""

    options: ClassVar[type] = BehaviourOptions
    name = "likelihood"
    title = "likelihood"

    def score(
        self, state: Models, agent: AgentView, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, " batch"]:
        """log π(a|s) - log (1/M) Σ_m N(a; a^m, σ_a² I)."""
        rows = batch.transitions
        unweighted = jnp.zeros(batch.stored.shape[:-1])
        log_behaviour = -support_alignment(rows.action, batch.stored, unweighted)
        return agent.policy.log_prob(rows.obs, rows.action) - log_behaviour
