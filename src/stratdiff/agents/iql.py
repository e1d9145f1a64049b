"""IQL: implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169).

A conservative sample gets expectile τ, the target r + γ V(s') and advantage-weighted regression.
What any other one gets is three options (StratDiff; docs/method.md, section 6): the expectile, the
target and the actor's loss.
"""

import dataclasses
import functools
from typing import Annotated, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from stratdiff.agents.base import (
    ActorCritic,
    Conservative,
    Metrics,
    conservative_rows,
    polyak,
    td_error,
    td_target,
)
from stratdiff.agents.networks import CriticEnsemble, GaussianPolicy
from stratdiff.data.batch import Transition
from stratdiff.nn import MLP, apply_gradients, copy, init_optimizer
from stratdiff.options import Count, NonNegative, OpenFraction, Positive, Rate, Rule, Widths

OwnOrSame = Annotated[
    float | None, Rule(lambda x: x is None or 0 < x < 1, "between 0 and 1, exclusive, or None")
]


@dataclasses.dataclass(frozen=True)
class IQLConfig:
    """IQL's hyperparameters."""

    learning_rate: Positive = 3e-4
    """Adam learning rate of actor, critics and value."""
    actor_schedule: Literal["constant", "cosine"] = "constant"
    """The actor's rate offline: constant, or a cosine to 0 and the full rate again online."""
    final_gain: Positive = 2**0.5
    """Gain of the last layers' initial weights; the authors' fine-tuning has that of all layers."""
    actor_hidden: Widths = (256, 256)
    """Hidden layer widths of the actor."""
    critic_hidden: Widths = (256, 256)
    """Hidden layer widths of critics and value."""
    discount: OpenFraction = 0.99
    """Discount γ."""
    polyak: Rate = 0.005
    """Rate at which target critics follow."""
    expectile: OpenFraction = 0.7
    """Expectile τ of conservative samples."""
    online_expectile: OwnOrSame = None
    """Expectile of online-like samples; None: the same."""
    online_target: Literal["value", "max-q", "policy"] = "policy"
    """Next value of online-like samples: V(s'), the best Q̄ of N actions from π, or Q̄ of one."""
    online_actor: Literal["regression", "max-q"] = "regression"
    """The actor's loss on online-like samples: advantage-weighted regression, or -Q̄ of its mode."""
    inverse_temperature: NonNegative = 3.0
    """β_awr in the actor's weight exp(β_awr A)."""
    max_target_actions: Count = 10
    """Candidate actions N of the target `max-q`."""


class IQLState(eqx.Module):
    """Networks, target critics and optimiser states."""

    actor: GaussianPolicy
    value: MLP
    critic: CriticEnsemble
    target_critic: CriticEnsemble
    actor_opt: optax.OptState
    value_opt: optax.OptState
    critic_opt: optax.OptState


MAX_WEIGHT = 100.0


def expectile_loss(
    difference: Float[Array, "*batch"], expectile: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """L2^τ(u) = |τ - 1(u < 0)| u² with u = Q̄(s,a) - V(s) (IQL eq. 5)."""
    return jnp.abs(expectile - (difference < 0)) * jnp.square(difference)


def advantage_weight(
    advantage: Float[Array, "*batch"], inverse_temperature: float
) -> Float[Array, "*batch"]:
    """min(exp(β_awr A), 100) (IQL eq. 7; the bound is the authors')."""
    return jnp.minimum(jnp.exp(inverse_temperature * advantage), MAX_WEIGHT)


def regression_loss(
    log_prob: Float[Array, "*batch"], weight: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """-weight · log π(a|s) per sample: advantage-weighted regression (IQL eq. 7)."""
    return -(weight * log_prob)


def max_q_value(q: Float[Array, "*batch candidates"]) -> Float[Array, "*batch"]:
    """max_j Q̄(s', a_j) of the candidates a_j ~ π(·|s'): an online-like row's next value."""
    return q.max(-1)


def max_q_actor_loss(
    q_policy: Float[Array, "*rows"], q_data: Float[Array, "*batch"]
) -> Float[Array, "*rows"]:
    """-Q̄(s, π(s)) / mean |Q̄(s, a)| per sample (TD3+BC, arXiv 2106.06860, eq. 5)."""
    return -q_policy / (jnp.abs(q_data).mean() + 1e-8)


@dataclasses.dataclass(frozen=True)
class IQL(ActorCritic):
    """The `Agent`."""

    config: IQLConfig

    options = IQLConfig
    name = "iql"
    title = "IQL"
    online_options = ("online_expectile", "online_target", "online_actor", "max_target_actions")
    recipes: ClassVar = {"antmaze": {"expectile": 0.9, "inverse_temperature": 10.0}}

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Of value and critics."""
        return optax.adam(self.config.learning_rate)

    @functools.cached_property
    def actor_optimizer(self) -> optax.GradientTransformation:
        """Adam; with the cosine its rate is back at the full one after the offline updates."""
        if self.offline_steps == 0 or self.config.actor_schedule == "constant":
            return self.optimizer

        def rate(count: Int[Array, ""]) -> Float[Array, ""]:
            fraction = count.astype(float) / self.offline_steps
            decayed = 0.5 * (1 + jnp.cos(jnp.pi * fraction))
            return self.config.learning_rate * jnp.where(fraction < 1, decayed, 1.0)

        return optax.adam(rate)

    def init(self, key: PRNGKeyArray) -> IQLState:
        """A fresh state."""
        c, (k1, k2, k3) = self.config, jax.random.split(key, 3)
        sizes = self.obs_dim, self.action_dim
        actor = GaussianPolicy(*sizes, c.actor_hidden, k1, c.final_gain)
        value = MLP(self.obs_dim, c.critic_hidden, 1, k2, final_gain=c.final_gain)
        critic = CriticEnsemble(*sizes, c.critic_hidden, 2, k3, final_gain=c.final_gain)
        return IQLState(
            actor=actor,
            value=value,
            critic=critic,
            target_critic=copy(critic),
            actor_opt=init_optimizer(self.actor_optimizer, actor),
            value_opt=init_optimizer(self.optimizer, value),
            critic_opt=init_optimizer(self.optimizer, critic),
        )

    def update(
        self, state: IQLState, batch: Transition, key: PRNGKeyArray, conservative: Conservative
    ) -> tuple[IQLState, Metrics]:
        """Value, then actor and critics with the new value, then target critics."""
        c, size = self.config, len(batch.reward)
        kept = conservative_rows(conservative, size)
        q = self.q(state, batch.obs, batch.action)
        tau = jnp.where(kept, c.expectile, c.online_expectile or c.expectile)

        def value_loss(value: MLP) -> Float[Array, ""]:
            return expectile_loss(q - value(batch.obs)[:, 0], tau).mean()

        v_loss, grads = jax.value_and_grad(value_loss)(state.value)
        value, value_opt = apply_gradients(self.optimizer, state.value, grads, state.value_opt)

        # Both states in one product.
        v, next_value = jnp.split(value(jnp.concatenate([batch.obs, batch.next_obs]))[:, 0], 2)
        weight = advantage_weight(q - v, c.inverse_temperature)

        # Behind a static number of conservative rows; any row where the number depends on the data.
        first = conservative if isinstance(conservative, int) else 0
        plain = ~kept[first:]

        def actor_loss(actor: GaussianPolicy) -> Float[Array, ""]:
            losses = regression_loss(actor.log_prob(batch.obs, batch.action), weight)
            if c.online_actor == "max-q" and first < size:
                obs = batch.obs[first:]
                greedy = max_q_actor_loss(self.q(state, obs, actor.mode(obs)), q)
                losses = losses.at[first:].set(jnp.where(plain, greedy, losses[first:]))
            return losses.mean()

        a_loss, grads = jax.value_and_grad(actor_loss)(state.actor)
        actor, actor_opt = apply_gradients(
            self.actor_optimizer, state.actor, grads, state.actor_opt
        )

        if c.online_target != "value" and first < size:
            online_obs = batch.next_obs[first:]
            n = c.max_target_actions if c.online_target == "max-q" else 1
            candidates = state.actor.sample_n(online_obs, key, n)
            best = max_q_value(self.q(state, online_obs[:, None], candidates))
            if isinstance(conservative, int):
                next_value = jnp.concatenate([next_value[:first], best])
            else:
                next_value = jnp.where(kept, next_value, best)
        target = td_target(batch.reward, c.discount, batch.terminal.astype(float), next_value)

        def critic_loss(critic: CriticEnsemble) -> tuple[Float[Array, ""], Float[Array, ""]]:
            predicted = critic(batch.obs, batch.action)
            return td_error(predicted, target).mean(), predicted.mean()

        (q_loss, q_mean), grads = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
        critic, critic_opt = apply_gradients(self.optimizer, state.critic, grads, state.critic_opt)

        new = IQLState(
            actor=actor,
            value=value,
            critic=critic,
            target_critic=polyak(state.target_critic, critic, c.polyak),
            actor_opt=actor_opt,
            value_opt=value_opt,
            critic_opt=critic_opt,
        )
        return new, {
            "critic_loss": q_loss,
            "value_loss": v_loss,
            "actor_loss": a_loss,
            "q_mean": q_mean,
            "v_mean": v.mean(),
            "td_target_mean": target.mean(),
            "advantage_weight_mean": weight.mean(),
            "actor_std": jnp.exp(actor.log_std).mean(),
        }
