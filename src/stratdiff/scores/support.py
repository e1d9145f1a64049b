"""Density of an action under stored support actions, weighted by exp(w β Q): no sampling.

See docs/method.md, section 4.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from stratdiff.data.batch import Batch
from stratdiff.scores.base import AgentView
from stratdiff.scores.behaviour import Models
from stratdiff.scores.guidance import GuidanceScore

# Kernel width of the support density at least this: closer actions are one action.
MIN_SUPPORT_STD = 0.05


def support_std(support: Float[Array, "batch support act"]) -> Float[Array, ""]:
    """Kernel width σ_a from the spread of the support, one for the whole batch.

    Scott's rule: the root-mean-square standard deviation of the support actions within a state
    (over states and dimensions) times M^(-1/(A+4)), at least `MIN_SUPPORT_STD`.
    """
    m, dim = support.shape[-2:]
    spread = jnp.sqrt(support.var(axis=-2).mean())
    return jnp.maximum(spread * m ** (-1 / (dim + 4)), MIN_SUPPORT_STD)


def support_alignment(
    action: Float[Array, "batch act"],
    support: Float[Array, "batch support act"],
    weighted_q: Float[Array, "batch support"],
) -> Float[Array, " batch"]:
    """-log Σ_m softmax_m(w β Q̄) N(a; a^m, σ_a² I), the support actions a sample of π_0.

    `weighted_q` is w β Q̄(s, a^m), in reference reward units.
    """
    std = support_std(support)
    distance = jnp.square(action[:, None] - support).sum(-1)
    normalizer = action.shape[-1] * (jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi))
    log_kernel = -distance / (2 * std**2) - normalizer
    return -jax.nn.logsumexp(jax.nn.log_softmax(weighted_q) + log_kernel, axis=-1)


class Support(GuidanceScore):
    """-log density of an action under the state's weighted support actions."""

    name = "support"
    title = "support"

    def score(
        self, state: Models, agent: AgentView, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, " batch"]:
        """-log Σ_m w_m N(a; a^m, σ_a² I), w_m ∝ exp(w β Q̄(s, a^m))."""
        rows = batch.transitions
        weighted_q = self.scale(state) * self.beta_q(agent, rows.obs, batch.stored)
        return support_alignment(rows.action, batch.stored, weighted_q)
