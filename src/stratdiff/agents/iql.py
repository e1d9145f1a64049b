"""IQL: implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169).

A conservative sample gets expectile τ and the target r + γ V(s'). Any other one gets a higher
expectile and r + γ max_j Q̄(s', a_j), a_j ~ π(·|s') (StratDiff, METHOD 6).
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from stratdiff.agents.base import ActorCritic, Metrics, polyak, td_target
from stratdiff.data.batch import Transition
from stratdiff.networks import MLP, CriticEnsemble, GaussianPolicy, adam_init, adam_update, copy


@dataclasses.dataclass(frozen=True)
class IQLConfig:
    """IQL's hyperparameters."""

    learning_rate: float = 3e-4
    """Adam learning rate of actor, critics and value; the actor's decays to 0 offline (cosine)."""
    actor_hidden: tuple[int, ...] = (256, 256)
    """Hidden layer widths of the actor."""
    critic_hidden: tuple[int, ...] = (256, 256)
    """Hidden layer widths of critics and value."""
    discount: float = 0.99
    """Discount γ."""
    polyak: float = 0.005
    """Rate at which target critics follow."""
    expectile: float = 0.7
    """Expectile τ of conservative samples."""
    online_expectile: float = 0.99
    """Expectile of online-like samples."""
    inverse_temperature: float = 3.0
    """β_awr in the actor's weight exp(β_awr A)."""
    max_target_actions: int = 10
    """Candidate actions N of an online-like sample's max-Q target."""


class IQLState(eqx.Module):
    """Networks, target critics, optimiser moments and the count of updates."""

    actor: GaussianPolicy
    value: MLP
    critic: CriticEnsemble
    target_critic: CriticEnsemble
    actor_opt: optax.OptState
    value_opt: optax.OptState
    critic_opt: optax.OptState
    updates: Float[Array, ""]


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


@dataclasses.dataclass(frozen=True)
class IQL(ActorCritic):
    """The `Agent`. `decay_updates` is the length of the actor's cosine decay (0: none)."""

    config: IQLConfig
    obs_dim: int
    action_dim: int
    decay_updates: int = 0

    def init(self, key: PRNGKeyArray) -> IQLState:
        """A fresh state."""
        c, (k1, k2, k3) = self.config, jax.random.split(key, 3)
        actor = GaussianPolicy(self.obs_dim, self.action_dim, c.actor_hidden, k1)
        value = MLP(self.obs_dim, c.critic_hidden, 1, k2)
        critic = CriticEnsemble(self.obs_dim, self.action_dim, c.critic_hidden, 2, k3)
        return IQLState(
            actor=actor,
            value=value,
            critic=critic,
            target_critic=copy(critic),
            actor_opt=adam_init(actor),
            value_opt=adam_init(value),
            critic_opt=adam_init(critic),
            updates=jnp.zeros(()),
        )

    def update(
        self, state: IQLState, batch: Transition, key: PRNGKeyArray, n_conservative: int
    ) -> tuple[IQLState, Metrics]:
        """Value, then actor and critics with the new value, then target critics."""
        c, k, size = self.config, n_conservative, len(batch.reward)
        q = self.q(state, batch.obs, batch.action)
        tau = jnp.where(jnp.arange(size) < k, c.expectile, c.online_expectile)

        def value_loss(value: MLP) -> Float[Array, ""]:
            return expectile_loss(q - value(batch.obs)[:, 0], tau).mean()

        v_loss, grads = jax.value_and_grad(value_loss)(state.value)
        value, value_opt = adam_update(state.value, grads, state.value_opt, c.learning_rate)

        # Both states in one product.
        v, next_value = jnp.split(value(jnp.concatenate([batch.obs, batch.next_obs]))[:, 0], 2)
        weight = advantage_weight(q - v, c.inverse_temperature)

        def actor_loss(actor: GaussianPolicy) -> Float[Array, ""]:
            return -(weight * actor.log_prob(batch.obs, batch.action)).mean()

        a_loss, grads = jax.value_and_grad(actor_loss)(state.actor)
        actor, actor_opt = adam_update(state.actor, grads, state.actor_opt, self._actor_rate(state))

        if k < size:
            # Max-Q targets, on the online-like rows only.
            online_obs = batch.next_obs[k:]
            candidates = state.actor.sample_n(online_obs, key, c.max_target_actions)
            best = self.q(state, online_obs[:, None], candidates).max(-1)
            next_value = jnp.concatenate([next_value[:k], best])
        target = td_target(batch.reward, c.discount, batch.terminal.astype(float), next_value)

        def critic_loss(critic: CriticEnsemble) -> tuple[Float[Array, ""], Float[Array, ""]]:
            predicted = critic(batch.obs, batch.action)
            return jnp.square(predicted - target).sum(0).mean(), predicted.mean()

        (q_loss, q_mean), grads = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
        critic, critic_opt = adam_update(state.critic, grads, state.critic_opt, c.learning_rate)

        new = IQLState(
            actor=actor,
            value=value,
            critic=critic,
            target_critic=polyak(state.target_critic, critic, c.polyak),
            actor_opt=actor_opt,
            value_opt=value_opt,
            critic_opt=critic_opt,
            updates=state.updates + 1,
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

    def _actor_rate(self, state: IQLState) -> float | Float[Array, ""]:
        """Cosine decay to 0 over the offline updates; the full rate again online."""
        if self.decay_updates == 0:
            return self.config.learning_rate
        fraction = state.updates / self.decay_updates
        decayed = 0.5 * (1 + jnp.cos(jnp.pi * fraction))
        return self.config.learning_rate * jnp.where(fraction < 1, decayed, 1.0)
