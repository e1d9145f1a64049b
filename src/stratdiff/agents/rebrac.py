"""ReBRAC: TD3 with behaviour cloning in actor and critic (Tarasov et al. 2023, arXiv 2305.09836).

A conservative sample keeps both penalties: the actor's distance from the data's action, and in the
critics' target that of the next action from the data's next action. Any other one gets plain TD3
(StratDiff; docs/method.md, section 6).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from stratdiff.agents.base import (
    ActorCritic,
    Conservative,
    Metrics,
    RewardUnits,
    conservative_rows,
    polyak,
    td_error,
    td_target,
)
from stratdiff.agents.networks import CriticEnsemble, GaussianPolicy
from stratdiff.data.batch import Transition
from stratdiff.nn import MLP, apply_gradients, copy, in_common, init_optimizer
from stratdiff.options import Count, NonNegative, OpenFraction, Positive, Rate, Rule, Widths

# Within the bounds of `GaussianPolicy`'s deviation.
Noise = Annotated[float, Rule(lambda x: 0.007 <= x <= 7, "between 0.007 and 7")]


@dataclasses.dataclass(frozen=True)
class ReBRACConfig:
    """ReBRAC's hyperparameters. The authors use batches of 1024 (`--batch-size 1024`)."""

    actor_learning_rate: Positive = 1e-3
    """Adam learning rate of the actor."""
    critic_learning_rate: Positive = 1e-3
    """Adam learning rate of the critics."""
    actor_hidden: Widths = (256, 256, 256)
    """Hidden layer widths of the actor."""
    critic_hidden: Widths = (256, 256, 256)
    """Hidden layer widths of the critics."""
    layer_norm: bool = True
    """Layer normalisation in the critics, behind each activation."""
    discount: OpenFraction = 0.99
    """Discount γ."""
    polyak: Rate = 0.005
    """Rate at which target networks follow, each time the actor is updated."""
    actor_penalty: NonNegative = 0.01
    """β₁: weight of the actor's squared distance from the data, to be tuned for each data set."""
    critic_penalty: NonNegative = 0.01
    """β₂: weight of the next action's squared distance, in the data's own reward units."""
    policy_delay: Count = 2
    """Updates of the critics per update of the actor and the target networks."""
    target_noise: NonNegative = 0.2
    """Standard deviation of the noise on target actions."""
    noise_clip: NonNegative = 0.5
    """Bound on the noise on target actions."""
    exploration_noise: Noise = 0.03
    """Standard deviation of the noise on online actions."""


class ReBRACState(eqx.Module):
    """Networks, target networks, optimiser states."""

    actor: GaussianPolicy
    target_actor: GaussianPolicy
    critic: CriticEnsemble
    target_critic: CriticEnsemble
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    actor_loss: Float[Array, ""]
    """That of the last update of the actor."""
    updates: Int[Array, ""]


# Bounds of the last layers' initial weights and biases, and the hidden biases: the authors'.
LAST_ACTOR, LAST_CRITIC, HIDDEN_BIAS = 1e-3, 3e-3, 0.1


def smoothed(
    action: Float[Array, "*batch act"], noise: Float[Array, "*batch act"], bound: float
) -> Float[Array, "*batch act"]:
    """clip(a + clip(noise, ±bound), ±1): the target policy's action (TD3, arXiv 1802.09477)."""
    return jnp.clip(action + jnp.clip(noise, -bound, bound), -1.0, 1.0)


def squared_distance(
    action: Float[Array, "*batch act"], other: Float[Array, "*batch act"]
) -> Float[Array, "*batch"]:
    """‖a - a'‖² per sample, 0 where an action is not known (NaN)."""
    known = ~jnp.isnan(other).any(-1)
    return jnp.square(action - jnp.where(known[..., None], other, action)).sum(-1)


def penalized_value(
    q: Float[Array, "*batch"],
    action: Float[Array, "*batch act"],
    data_action: Float[Array, "*batch act"],
    weight: Float[Array, "*#batch"],
) -> Float[Array, "*batch"]:
    """Q̄(s', a') - β₂ ‖a' - a'_data‖², the next value (ReBRAC eq. 5)."""
    return q - weight * squared_distance(action, data_action)


def penalized_actor_loss(
    q: Float[Array, "*batch"],
    action: Float[Array, "*batch act"],
    data_action: Float[Array, "*batch act"],
    weight: Float[Array, "*#batch"],
) -> Float[Array, "*batch"]:
    """β₁ ‖π(s) - a‖² - Q(s, π(s)) / mean |Q| per sample (ReBRAC eq. 4; mean: the authors')."""
    scale = jax.lax.stop_gradient(1 / jnp.abs(q).mean())
    return weight * squared_distance(action, data_action) - scale * q


@dataclasses.dataclass(frozen=True)
class ReBRAC(ActorCritic):
    """The `Agent`. Its policy explores with a Gaussian of fixed deviation around tanh(net(s))."""

    config: ReBRACConfig

    options = ReBRACConfig
    name = "rebrac"
    title = "ReBRAC"
    recipes: ClassVar = {
        "antmaze": {
            "actor_learning_rate": 3e-4,
            "critic_learning_rate": 5e-5,
            "discount": 0.999,
            "actor_penalty": 0.003,
            "critic_penalty": 0.002,
        }
    }

    @functools.cached_property
    def actor_optimizer(self) -> optax.GradientTransformation:
        """Of the actor."""
        return optax.adam(self.config.actor_learning_rate)

    @functools.cached_property
    def critic_optimizer(self) -> optax.GradientTransformation:
        """Of the critics."""
        return optax.adam(self.config.critic_learning_rate)

    def reward_units(self, recipe: str, scale: float) -> RewardUnits:
        """The environment's own rewards, for sparse goals 100 r: what the authors' β₂ is for."""
        sparse = recipe == "antmaze"
        return RewardUnits(100.0, 0.0, 100.0) if sparse else RewardUnits(1.0, 0.0, 1 / scale)

    def policy(self, state: ReBRACState) -> GaussianPolicy:
        """The current policy, with this run's noise: the state may be taken from another run."""
        log_std = jnp.full_like(state.actor.log_std, jnp.log(self.config.exploration_noise))
        return eqx.tree_at(lambda actor: actor.log_std, state.actor, log_std)

    def init(self, key: PRNGKeyArray) -> ReBRACState:
        """A fresh state."""
        c, (k1, k2) = self.config, jax.random.split(key)
        gain = _gain(LAST_ACTOR, c.actor_hidden)
        actor = GaussianPolicy(
            self.obs_dim, self.action_dim, c.actor_hidden, k1, gain, init="uniform"
        )
        log_std = jnp.full(self.action_dim, jnp.log(c.exploration_noise))
        actor = eqx.tree_at(lambda a: a.log_std, actor, log_std)
        actor = eqx.tree_at(lambda a: a.net, actor, _with_hidden_biases(actor.net))
        critic = CriticEnsemble(
            self.obs_dim, self.action_dim, c.critic_hidden, 2, k2, c.layer_norm,
            _gain(LAST_CRITIC, c.critic_hidden), init="uniform", norm_after=True,
        )  # fmt: skip
        critic = eqx.tree_at(lambda q: q.members, critic, _with_hidden_biases(critic.members))
        return ReBRACState(
            actor=actor,
            target_actor=copy(actor),
            critic=critic,
            target_critic=copy(critic),
            actor_opt=init_optimizer(self.actor_optimizer, actor),
            critic_opt=init_optimizer(self.critic_optimizer, critic),
            actor_loss=jnp.zeros(()),
            updates=jnp.zeros((), jnp.int32),
        )

    def update(
        self, state: ReBRACState, batch: Transition, key: PRNGKeyArray, conservative: Conservative
    ) -> tuple[ReBRACState, Metrics]:
        """Critics; when it is due the actor with the new critics, and the target networks."""
        c = self.config
        kept = conservative_rows(conservative, len(batch.reward)).astype(float)
        assert batch.next_action is not None

        noise = c.target_noise * jax.random.normal(key, batch.action.shape)
        next_action = smoothed(state.target_actor.mode(batch.next_obs), noise, c.noise_clip)
        next_value = penalized_value(
            self.q(state, batch.next_obs, next_action),
            next_action,
            batch.next_action,
            c.critic_penalty * kept,
        )
        target = td_target(batch.reward, c.discount, batch.terminal.astype(float), next_value)

        def critic_loss(critic: CriticEnsemble) -> tuple[Float[Array, ""], Float[Array, ""]]:
            predicted = critic(batch.obs, batch.action)
            return td_error(predicted, target).mean(), predicted.mean()

        (q_loss, q_mean), grads = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
        critic, critic_opt = apply_gradients(
            self.critic_optimizer, state.critic, grads, state.critic_opt
        )

        def actor_loss(actor: GaussianPolicy) -> Float[Array, ""]:
            action = actor.mode(batch.obs)
            q = critic(batch.obs, action).min(0)
            weight = c.actor_penalty * kept
            return penalized_actor_loss(q, action, batch.action, weight).mean()

        def learn() -> ReBRACState:
            loss, grads = jax.value_and_grad(actor_loss)(state.actor)
            actor, actor_opt = apply_gradients(
                self.actor_optimizer, state.actor, grads, state.actor_opt
            )
            return ReBRACState(
                actor=actor,
                # The authors' target follows the actor as it was before this step.
                target_actor=polyak(state.target_actor, state.actor, c.polyak),
                critic=critic,
                target_critic=polyak(state.target_critic, critic, c.polyak),
                actor_opt=actor_opt,
                critic_opt=critic_opt,
                actor_loss=loss,
                updates=state.updates + 1,
            )

        def wait() -> ReBRACState:
            return dataclasses.replace(
                state, critic=critic, critic_opt=critic_opt, updates=state.updates + 1
            )

        due: Bool[Array, ""] = in_common(state.updates) % c.policy_delay == 0
        new = jax.lax.cond(due, learn, wait)
        return new, {
            "critic_loss": q_loss,
            "actor_loss": new.actor_loss,
            "q_mean": q_mean,
            "td_target_mean": target.mean(),
            "next_action_distance": squared_distance(next_action, batch.next_action).mean(),
        }


def _gain(bound: float, hidden: Sequence[int]) -> float:
    """Of the last layer, so that its weights and biases are U(±bound)."""
    return bound * hidden[-1] ** 0.5


def _with_hidden_biases(net: MLP) -> MLP:
    """The network with every hidden bias at its first value."""
    start = [jnp.full_like(layer.bias, HIDDEN_BIAS) for layer in net.layers[:-1]]
    return eqx.tree_at(lambda n: [layer.bias for layer in n.layers[:-1]], net, start)
