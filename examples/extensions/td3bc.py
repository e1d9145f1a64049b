"""TD3+BC as a base algorithm (Fujimoto & Gu 2021, arXiv 2106.06860).

Put this folder on PYTHONPATH and name the class:

    stratdiff train --base td3bc:TD3BC --td3bc.alpha 2.5

Conservative rows keep the behaviour-cloning penalty of the actor; the others get plain TD3.
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from stratdiff.agents.base import ActorCritic, conservative_rows, polyak, td_error, td_target
from stratdiff.agents.networks import CriticEnsemble, GaussianPolicy
from stratdiff.nn import apply_gradients, copy, init_optimizer
from stratdiff.options import Count, NonNegative, OpenFraction, Positive, Rate, Widths


@dataclasses.dataclass(frozen=True)
class TD3BCOptions:
    """TD3+BC's hyperparameters."""

    alpha: Positive = 2.5
    """Weight α of Q, which is divided by the batch mean of |Q|, against behaviour cloning."""
    learning_rate: Positive = 3e-4
    """Adam learning rate of actor and critics."""
    hidden: Widths = (256, 256)
    """Hidden layer widths of actor and critics."""
    discount: OpenFraction = 0.99
    """Discount γ."""
    polyak: Rate = 0.005
    """Rate at which target networks follow, each time the actor is updated."""
    policy_delay: Count = 2
    """Updates of the critics per update of the actor."""
    target_noise: NonNegative = 0.2
    """Standard deviation of the noise on target actions."""
    noise_clip: NonNegative = 0.5
    """Bound on the noise on target actions."""
    exploration_noise: Rate = 0.1
    """Standard deviation of the noise on online actions."""


class TD3BCState(eqx.Module):
    """Networks, target networks, optimiser states and the number of updates."""

    actor: GaussianPolicy
    actor_opt: optax.OptState
    target_actor: GaussianPolicy
    target_critic: CriticEnsemble
    critic: CriticEnsemble
    critic_opt: optax.OptState
    updates: jax.Array


def smoothed(action, noise, clip):
    """Target action [B, A] with clipped noise: clip(π̄(s') + clip(ε, -c, c), -1, 1)."""
    return jnp.clip(action + jnp.clip(noise, -clip, clip), -1.0, 1.0)


def actor_loss(q, policy_action, action, kept, alpha):
    """-λ Q(s, π(s)) + kept · mean over dimensions of (π(s) - a)², with λ = α / mean |Q|; [B]."""
    scale = jax.lax.stop_gradient(alpha / (jnp.abs(q).mean() + 1e-8))
    return kept * jnp.square(policy_action - action).mean(-1) - scale * q


@dataclasses.dataclass(frozen=True)
class TD3BC(ActorCritic):
    """The `Agent`; `ActorCritic` takes care of Q, reward units and export."""

    options = TD3BCOptions
    name = "td3bc"
    title = "TD3+BC"

    @functools.cached_property
    def optimizer(self):
        return optax.adam(self.config.learning_rate)

    def init(self, key):
        """A fresh state. The policy is a Gaussian around tanh(net(s)) of fixed deviation."""
        c, (k1, k2) = self.config, jax.random.split(key)
        actor = GaussianPolicy(self.obs_dim, self.action_dim, c.hidden, k1)
        log_std = jnp.full(self.action_dim, jnp.log(c.exploration_noise))
        actor = eqx.tree_at(lambda policy: policy.log_std, actor, log_std)
        critic = CriticEnsemble(self.obs_dim, self.action_dim, c.hidden, 2, k2)
        opts = [init_optimizer(self.optimizer, net) for net in (actor, critic)]
        return TD3BCState(actor, opts[0], *copy((actor, critic)), critic, opts[1], jnp.array(0))

    def update(self, state, batch, key, conservative):
        """Critics; every `policy_delay` updates the actor, by Q_1, and the target networks."""
        c, kept = self.config, conservative_rows(conservative, len(batch.reward))
        noise = c.target_noise * jax.random.normal(key, batch.action.shape)
        next_action = smoothed(state.target_actor.mode(batch.next_obs), noise, c.noise_clip)
        next_q = self.q(state, batch.next_obs, next_action)
        target = td_target(batch.reward, c.discount, batch.terminal.astype(float), next_q)

        def critic_loss(critic):
            return td_error(critic(batch.obs, batch.action), target).mean()

        q_loss, grads = jax.value_and_grad(critic_loss)(state.critic)
        critic, critic_opt = apply_gradients(self.optimizer, state.critic, grads, state.critic_opt)

        def loss(actor):
            mode = actor.mode(batch.obs)
            return actor_loss(critic(batch.obs, mode)[0], mode, batch.action, kept, c.alpha).mean()

        def learn():
            value, grads = jax.value_and_grad(loss)(state.actor)
            actor, opt = apply_gradients(self.optimizer, state.actor, grads, state.actor_opt)
            return actor, opt, *polyak(before[2:], (actor, critic), c.polyak), value

        before = state.actor, state.actor_opt, state.target_actor, state.target_critic
        due = (state.updates + 1) % c.policy_delay == 0
        *learned, a_loss = jax.lax.cond(due, learn, lambda: (*before, loss(state.actor)))
        new = TD3BCState(*learned, critic, critic_opt, state.updates + 1)
        return new, {"critic_loss": q_loss, "actor_loss": a_loss, "td_target_mean": target.mean()}
