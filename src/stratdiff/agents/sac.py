"""SAC: soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905).

It makes the package's data. With half of each batch from offline data, layer normalisation and ten
critics it is RLPD (Ball et al. 2023, arXiv 2302.02948). It has no conservative term.
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from stratdiff.agents.base import (
    ActorCritic,
    Conservative,
    Metrics,
    check_ensemble,
    polyak,
    soft_actor_loss,
    subset,
    td_error,
    td_target,
    temperature_gradient,
)
from stratdiff.agents.networks import CriticEnsemble, SquashedGaussianPolicy
from stratdiff.data.batch import Transition
from stratdiff.nn import apply_gradients, copy, init_optimizer
from stratdiff.options import Count, OpenFraction, Positive, Rate, Widths


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """SAC's hyperparameters."""

    learning_rate: Positive = 3e-4
    """Adam learning rate of actor, critics and entropy temperature."""
    actor_hidden: Widths = (256, 256)
    """Hidden layer widths of the actor."""
    critic_hidden: Widths = (256, 256)
    """Hidden layer widths of the critics."""
    discount: OpenFraction = 0.99
    """Discount γ."""
    polyak: Rate = 0.005
    """Rate at which target critics follow."""
    critics: Count = 2
    """Ensemble size; RLPD uses 10."""
    target_critics: Count = 2
    """Random members whose minimum is the TD target."""
    layer_norm: bool = False
    """Layer normalisation in the critics; RLPD uses it."""
    entropy_scale: Positive = 1.0
    """Target entropy in units of -A; RLPD uses 0.5."""

    def check(self) -> None:
        """Raise `UserError` where the target takes more critics than there are."""
        check_ensemble("sac", self.critics, self.target_critics)


class SACState(eqx.Module):
    """Networks, target critics, log entropy temperature and optimiser moments."""

    actor: SquashedGaussianPolicy
    critic: CriticEnsemble
    target_critic: CriticEnsemble
    log_temperature: Float[Array, ""]
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    temperature_opt: optax.OptState


@dataclasses.dataclass(frozen=True)
class SAC(ActorCritic):
    """The `Agent`. It has no conservative loss, so which rows are conservative changes nothing."""

    config: SACConfig

    options = SACConfig
    name = "sac"
    title = "SAC"
    stratifies = False

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Of actor, critics and entropy temperature."""
        return optax.adam(self.config.learning_rate)

    def init(self, key: PRNGKeyArray) -> SACState:
        """A fresh state."""
        c, (k1, k2) = self.config, jax.random.split(key)
        actor = SquashedGaussianPolicy(self.obs_dim, self.action_dim, c.actor_hidden, k1)
        critic = CriticEnsemble(
            self.obs_dim, self.action_dim, c.critic_hidden, c.critics, k2, c.layer_norm
        )
        zero = jnp.zeros(())
        return SACState(
            actor=actor,
            critic=critic,
            target_critic=copy(critic),
            log_temperature=zero,
            actor_opt=init_optimizer(self.optimizer, actor),
            critic_opt=init_optimizer(self.optimizer, critic),
            temperature_opt=init_optimizer(self.optimizer, zero),
        )

    def update(
        self, state: SACState, batch: Transition, key: PRNGKeyArray, conservative: Conservative
    ) -> tuple[SACState, Metrics]:
        """Critics, then the actor with the new critics, then the entropy temperature."""
        c = self.config
        target_key, subset_key, actor_key = jax.random.split(key, 3)
        temperature = jnp.exp(state.log_temperature)

        next_action, next_log_prob = state.actor.sample_n(batch.next_obs, target_key, 1)
        next_q = state.target_critic(batch.next_obs, next_action[:, 0])
        next_q = subset(next_q, c.target_critics, subset_key)
        soft_value = next_q.min(0) - temperature * next_log_prob[:, 0]
        target = td_target(batch.reward, c.discount, batch.terminal.astype(float), soft_value)

        def critic_loss(critic: CriticEnsemble) -> tuple[Float[Array, ""], Float[Array, ""]]:
            predicted = critic(batch.obs, batch.action)
            return td_error(predicted, target).mean(), predicted.mean()

        (q_loss, q_mean), grads = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
        critic, critic_opt = apply_gradients(self.optimizer, state.critic, grads, state.critic_opt)

        def actor_loss(actor: SquashedGaussianPolicy) -> tuple[Float[Array, ""], Float[Array, ""]]:
            action, log_prob = actor.sample_n(batch.obs, actor_key, 1)
            q = critic(batch.obs, action[:, 0])
            # RLPD's actor follows the ensemble's mean, SAC's the smaller of two critics.
            value = q.min(0) if c.critics == 2 else q.mean(0)
            return soft_actor_loss(log_prob[:, 0], value, temperature).mean(), log_prob.mean()

        (a_loss, mean_log_prob), grads = jax.value_and_grad(actor_loss, has_aux=True)(state.actor)
        actor, actor_opt = apply_gradients(self.optimizer, state.actor, grads, state.actor_opt)
        log_temperature, temperature_opt = apply_gradients(
            self.optimizer,
            state.log_temperature,
            temperature_gradient(mean_log_prob, c.entropy_scale * self.action_dim),
            state.temperature_opt,
        )
        new = SACState(
            actor=actor,
            critic=critic,
            target_critic=polyak(state.target_critic, critic, c.polyak),
            log_temperature=log_temperature,
            actor_opt=actor_opt,
            critic_opt=critic_opt,
            temperature_opt=temperature_opt,
        )
        return new, {
            "critic_loss": q_loss,
            "actor_loss": a_loss,
            "q_mean": q_mean,
            "td_target_mean": target.mean(),
            "entropy": -mean_log_prob,
            "entropy_temperature": temperature,
        }
