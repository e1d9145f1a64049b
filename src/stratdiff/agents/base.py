"""What every base algorithm offers, and what they share.

A base is a frozen description (sizes and hyperparameters) whose methods are pure functions of its
state. Its critic losses are per sample and take how many of the first rows are *conservative*:
pre-training and plain fine-tuning say all of them, StratDiff the k offline-like ones. A new base
is one file that implements `Agent`.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from stratdiff.data.batch import Transition

Metrics = dict[str, Float[Array, ""]]


@runtime_checkable
class Policy(Protocol):
    """A stochastic policy on normalised states, actions in [-1, 1]."""

    def mode(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """The deterministic action."""
        ...

    def sample(
        self, obs: Float[Array, "*batch obs"], key: PRNGKeyArray
    ) -> Float[Array, "*batch act"]:
        """One random action per state."""
        ...


@runtime_checkable
class Agent(Protocol):
    """A base algorithm. `state` is its whole learnable state, a pytree of arrays."""

    @property
    def obs_dim(self) -> int:
        """Size of a state."""
        ...

    @property
    def action_dim(self) -> int:
        """Size of an action."""
        ...

    def init(self, key: PRNGKeyArray) -> Any:
        """A fresh state."""
        ...

    def update(
        self, state: Any, batch: Transition, key: PRNGKeyArray, n_conservative: int
    ) -> tuple[Any, Metrics]:
        """One update on a batch of B transitions, the first `n_conservative` of them conservative.

        `n_conservative` is static, 0 to B.
        """
        ...

    def policy(self, state: Any) -> Policy:
        """The current policy."""
        ...

    def q(
        self,
        state: Any,
        obs: Float[Array, "*#batch obs"],
        action: Float[Array, "*batch act"],
    ) -> Float[Array, "*batch"]:
        """Q̄ = min_k Q̄_k of the target critics. `obs` broadcasts."""
        ...

    def support_q(
        self,
        state: Any,
        obs: Float[Array, "batch obs"],
        support: Float[Array, "batch support act"],
    ) -> Float[Array, "batch support"]:
        """Q̄ of several actions of each state, for a softmax over them: only differences count."""
        ...


class ActorCritic:
    """Accessors shared by bases whose state has `actor` and `target_critic`."""

    def policy(self, state: Any) -> Any:
        """The current policy."""
        return state.actor

    def q(
        self,
        state: Any,
        obs: Float[Array, "*#batch obs"],
        action: Float[Array, "*batch act"],
    ) -> Float[Array, "*batch"]:
        """Q̄ = min_k Q̄_k of the target critics. `obs` broadcasts."""
        return state.target_critic(obs, action).min(0)

    def support_q(
        self,
        state: Any,
        obs: Float[Array, "batch obs"],
        support: Float[Array, "batch support act"],
    ) -> Float[Array, "batch support"]:
        """Q̄ of several actions of each state, for a softmax over them: only differences count."""
        return state.target_critic.around(obs, support).min(0)


def td_target(
    reward: Float[Array, "*batch"],
    discount: float,
    terminal: Float[Array, "*batch"],
    next_value: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """y = r + γ (1 - d) V(s'), a constant for gradients."""
    return jax.lax.stop_gradient(reward + discount * (1 - terminal) * next_value)


def polyak(target: PyTree, online: PyTree, rate: float) -> PyTree:
    """Move the target weights towards the online ones: (1 - τ) target + τ online."""
    return jax.tree.map(lambda t, w: (1 - rate) * t + rate * w, target, online)


def mean_over_batch(values: Float[Array, " rows"], batch: int) -> Float[Array, ""]:
    """Sum of some rows' values over the size of the whole batch.

    Both strata keep the 1/B of the batch, so no sample's weight depends on ρ (METHOD 6).
    """
    return jnp.sum(values) / batch
