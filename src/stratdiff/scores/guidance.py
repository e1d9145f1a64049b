"""The guidance scale w of scores that compare an action with π_0 ∝ μ exp(w β Q): given, or found.

A found scale lets the weights of the support actions carry a given amount of information; see
docs/method.md, section 4.
"""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from stratdiff.data.batch import Batch
from stratdiff.options import OpenFraction, Positive, Rule
from stratdiff.phases import Metrics
from stratdiff.scores.base import AgentView
from stratdiff.scores.behaviour import BehaviourOptions, BehaviourScore, Models

AUTO: Literal["auto"] = "auto"
# Weight of the updates before in the smoothed scale.
DECAY = 0.9
# Bisections of log c in this range, c the scale of values with standard deviation 1.
BISECTIONS, RANGE = 16, (-6.0, 10.0)

Scale = Annotated[
    float | Literal["auto"],
    Rule(lambda x: x == AUTO or 0 <= x < jnp.inf, "a number from 0 on, or auto"),
]


@dataclasses.dataclass(frozen=True)
class GuidanceOptions(BehaviourOptions):
    """Of scores that compare an action with π_0 ∝ μ exp(w β Q)."""

    guidance_scale: Scale = 3.0
    """Guidance scale w; 0: plain behaviour sampling; auto: see `guidance_information`."""
    guidance_information: OpenFraction = 0.25
    """κ of the automatic scale: mean KL of the support weights from uniform is κ log M."""
    inverse_temperature: Positive = 3.0
    """β in exp(w β Q), with Q in the suite's reference reward units."""


def information(weighted_q: Float[Array, "batch support"]) -> Float[Array, ""]:
    """Mean over states of KL(softmax(w β Q̄) ‖ uniform), in nats; at most log M."""
    log_weights = jax.nn.log_softmax(weighted_q)
    entropy = -(jnp.exp(log_weights) * log_weights).sum(-1)
    return jnp.log(weighted_q.shape[-1]) - entropy.mean()


def log_scale_for(
    beta_q: Float[Array, "batch support"], fraction: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(log w at which the weights of a batch carry κ log M, whether there is such a w).

    `beta_q` is β Q̄(s, a^m), `fraction` κ. The information grows with w, so w is found by
    bisection, on values brought to standard deviation 1, so that Q times 10 gives w / 10. There is
    none where all values of every state are equal.
    """
    spread = jnp.sqrt(beta_q.var(-1).mean())
    unit = beta_q / jnp.where(spread > 0, spread, 1.0)
    wanted = fraction * jnp.log(beta_q.shape[-1])

    def halve(
        _: Int[Array, ""], bounds: tuple[Float[Array, ""], Float[Array, ""]]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        low, high = bounds
        middle = (low + high) / 2
        enough = information(jnp.exp(middle) * unit) > wanted
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    start = tuple(jnp.asarray(bound) for bound in RANGE)
    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, start)
    found = (low + high) / 2 - jnp.log(jnp.where(spread > 0, spread, 1.0))
    return found, (spread > 0).astype(float)


class Smoothed(eqx.Module):
    """A decayed average of log w."""

    total: Float[Array, ""]
    weight: Float[Array, ""]

    def follow(self, log_scale: Float[Array, ""], valid: Float[Array, ""]) -> "Smoothed":
        """The average with one value more."""
        share = (1 - DECAY) * valid
        keep = jnp.where(valid > 0, DECAY, 1.0)
        return Smoothed(keep * self.total + share * log_scale, keep * self.weight + share)

    @property
    def scale(self) -> Float[Array, ""]:
        """W; 1 before the first value."""
        known = self.weight > 0
        return jnp.exp(jnp.where(known, self.total / jnp.where(known, self.weight, 1.0), 0.0))


@dataclasses.dataclass(frozen=True)
class GuidanceScore(BehaviourScore):
    """The guidance scale of such a score, in its state where it is found."""

    config: GuidanceOptions

    options: ClassVar[type] = GuidanceOptions

    @property
    def automatic(self) -> bool:
        """Whether the guidance scale is found."""
        return self.config.guidance_scale == AUTO

    def init(self, keys: Key[Array, "2"]) -> Models:
        """Fresh models, and no scale yet."""
        start = Smoothed(jnp.zeros(()), jnp.zeros(())) if self.automatic else ()
        return dataclasses.replace(super().init(keys), guidance=start)

    def scale(self, state: Models) -> Float[Array, ""]:
        """The guidance scale w now."""
        return state.guidance.scale if self.automatic else jnp.asarray(self.config.guidance_scale)

    def beta_q(self, agent: AgentView, obs: Any, support: Any) -> Float[Array, "batch support"]:
        """β Q̄ of the support actions."""
        return self.config.inverse_temperature * agent.q(obs, support)

    def prepare(self, state: Models, agent: AgentView, batch: Batch) -> Models:
        """The scale follows the batch."""
        if not self.automatic:
            return state
        beta_q = self.beta_q(agent, batch.transitions.obs, batch.stored)
        found = log_scale_for(beta_q, self.config.guidance_information)
        return dataclasses.replace(state, guidance=state.guidance.follow(*found))

    def update(
        self, state: Models, agent: AgentView, batch: Batch, key: PRNGKeyArray
    ) -> tuple[PyTree, Metrics]:
        """Nothing to learn; the scale is reported where it is found."""
        return state, {"guidance_scale": self.scale(state)} if self.automatic else {}
