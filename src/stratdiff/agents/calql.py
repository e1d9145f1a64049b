"""Cal-QL: calibrated conservative Q-learning (Nakamoto et al. 2023, arXiv 2303.05479).

SAC whose critics also push Q down on actions that the data does not hold (CQL, arXiv 2006.04779,
with importance sampling), but not below the value V_ref of the data's own policy. A conservative
sample gets TD error + α R, any other one the TD error only (StratDiff; docs/method.md, section 6).
"""

import dataclasses
import functools
import math
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from stratdiff.agents.base import (
    ActorCritic,
    Conservative,
    Metrics,
    RewardUnits,
    check_ensemble,
    conservative_rows,
    mean_over_batch,
    polyak,
    soft_actor_loss,
    subset,
    td_error,
    td_target,
    temperature_gradient,
)
from stratdiff.agents.networks import CriticEnsemble, SquashedGaussianPolicy
from stratdiff.cpu import sum_and_grad
from stratdiff.data.batch import Transition
from stratdiff.data.dataset import Dataset
from stratdiff.errors import UserError
from stratdiff.nn import apply_gradients, copy, init_optimizer
from stratdiff.options import Count, NonNegative, OpenFraction, Positive, Rate, Widths


@dataclasses.dataclass(frozen=True)
class CalQLConfig:
    """Cal-QL's hyperparameters."""

    actor_learning_rate: Positive = 1e-4
    """Adam learning rate of the actor and the entropy temperature."""
    critic_learning_rate: Positive = 3e-4
    """Adam learning rate of the critics and the Lagrange multiplier."""
    actor_hidden: Widths = (256, 256)
    """Hidden layer widths of the actor."""
    critic_hidden: Widths = (256, 256)
    """Hidden layer widths of the critics."""
    discount: OpenFraction = 0.99
    """Discount γ."""
    polyak: Rate = 0.005
    """Rate at which target critics follow."""
    alpha: NonNegative = 10.0
    """Weight α of the conservative term; with `lagrange`, the factor on the tuned multiplier."""
    lagrange: bool = False
    """Tune a multiplier so that the conservative gap stays at `lagrange_threshold`."""
    lagrange_threshold: float = 0.8
    """Target of the conservative gap when `lagrange` is on."""
    calibrate: bool = True
    """Bound Q of policy actions by V_ref from below. Off: plain CQL."""
    sampled_actions: Count = 10
    """Actions per state from each of: uniform, π(·|s), π(·|s')."""
    max_target_backup: bool = False
    """TD target from the best of `sampled_actions` actions instead of one."""
    critics: Count = 2
    """Ensemble size; WSRL uses 10."""
    target_critics: Count = 2
    """Random members whose minimum is the TD target."""
    layer_norm: bool = False
    """Layer normalisation in the critics; WSRL uses it."""

    def check(self) -> None:
        """Raise `UserError` where the target takes more critics than there are."""
        check_ensemble("calql", self.critics, self.target_critics)


class CalQLState(eqx.Module):
    """Networks, target critics, log multipliers and optimiser moments."""

    actor: SquashedGaussianPolicy
    critic: CriticEnsemble
    target_critic: CriticEnsemble
    log_temperature: Float[Array, ""]
    log_multiplier: Float[Array, ""]
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    temperature_opt: optax.OptState
    multiplier_opt: optax.OptState


MAX_MULTIPLIER = 1e6


# Where the authors' offset of the log standard deviation starts, a deviation of 0.37.
INITIAL_LOG_STD = -1.0


class _ConservativeRows(NamedTuple):
    """Conservative rows; `actions` are the data's, then uniform ones, then the policy's."""

    obs: Float[Array, "rows obs"]
    actions: Float[Array, "rows n act"]
    log_prob: Float[Array, "rows m"]
    target: Float[Array, " rows"]
    v_ref: Float[Array, " rows"]
    keep: Float[Array, " rows"]
    """1 for rows that are conservative."""


def conservative_gap(
    q_data: Float[Array, "*batch"],
    q_uniform: Float[Array, "*batch n"],
    q_policy: Float[Array, "*batch m"],
    log_prob_policy: Float[Array, "*batch m"],
    action_dim: int,
    v_ref: Float[Array, "*#batch"],
) -> Float[Array, "*batch"]:
    """R = logsumexp over sampled actions of (Q - log density) minus Q(s, a).

    Uniform actions have log-density -A log 2. Q of policy actions is bounded by `v_ref` from
    below (-inf: no calibration) before the logsumexp, as Cal-QL does (its eq. 5.1).
    """
    q_policy = jnp.maximum(q_policy, v_ref[..., None])
    candidates = jnp.concatenate(
        [q_uniform + action_dim * math.log(2.0), q_policy - log_prob_policy], axis=-1
    )
    return jax.nn.logsumexp(candidates, axis=-1) - q_data


@dataclasses.dataclass(frozen=True)
class CalQL(ActorCritic):
    """The `Agent`."""

    config: CalQLConfig

    options = CalQLConfig
    name = "calql"
    title = "Cal-QL"
    recipes: ClassVar = {
        "antmaze": {
            "critic_hidden": (256, 256, 256, 256),
            "alpha": 5.0,
            "lagrange": True,
            "max_target_backup": True,
        }
    }

    @functools.cached_property
    def actor_optimizer(self) -> optax.GradientTransformation:
        """Of the actor and the entropy temperature."""
        return optax.adam(self.config.actor_learning_rate)

    @functools.cached_property
    def critic_optimizer(self) -> optax.GradientTransformation:
        """Of the critics and the Lagrange multiplier."""
        return optax.adam(self.config.critic_learning_rate)

    def reward_units(self, recipe: str, scale: float) -> RewardUnits:
        """As every base, but 10 r - 5 for sparse goals (the authors')."""
        sparse = recipe == "antmaze"
        return RewardUnits(10.0, -5.0, 10.0) if sparse else super().reward_units(recipe, scale)

    def check_data(self, dataset: Dataset) -> None:
        """Raise `UserError` where calibration has no complete trajectory to go by."""
        if self.config.calibrate and not dataset.ends.any():
            raise UserError(
                f"data set {dataset.name!r} has no complete trajectory (no terminal and no "
                "timeout), so Cal-QL has no return to calibrate with; mark the ends in `timeouts`, "
                "or give --calql.no-calibrate (plain CQL) or --base iql."
            )

    def init(self, key: PRNGKeyArray) -> CalQLState:
        """A fresh state."""
        c, (k1, k2) = self.config, jax.random.split(key)
        actor = SquashedGaussianPolicy(
            self.obs_dim, self.action_dim, c.actor_hidden, k1, INITIAL_LOG_STD
        )
        critic = CriticEnsemble(
            self.obs_dim, self.action_dim, c.critic_hidden, c.critics, k2, c.layer_norm
        )
        zero = jnp.zeros(())
        return CalQLState(
            actor=actor,
            critic=critic,
            target_critic=copy(critic),
            log_temperature=zero,
            log_multiplier=jnp.ones(()),  # the authors' start
            actor_opt=init_optimizer(self.actor_optimizer, actor),
            critic_opt=init_optimizer(self.critic_optimizer, critic),
            temperature_opt=init_optimizer(self.actor_optimizer, zero),
            multiplier_opt=init_optimizer(self.critic_optimizer, zero),
        )

    def update(
        self, state: CalQLState, batch: Transition, key: PRNGKeyArray, conservative: Conservative
    ) -> tuple[CalQLState, Metrics]:
        """Critics, actor, entropy temperature and Lagrange multiplier, from the same old state."""
        c, size = self.config, len(batch.reward)
        kept = conservative_rows(conservative, size)
        # Rows that can be conservative, and the first that can be plain: where their number depends
        # on the data any row can be either, and a factor says which it is.
        dynamic = not isinstance(conservative, int)
        k = conservative if isinstance(conservative, int) else size
        first_plain = 0 if dynamic else k
        target_key, actor_key, uniform_key, now_key, next_key = jax.random.split(key, 5)

        n_target = c.sampled_actions if c.max_target_backup else 1
        next_action, _ = state.actor.sample_n(batch.next_obs, target_key, n_target)
        next_q = state.target_critic(batch.next_obs[:, None], next_action)
        next_q = subset(next_q, c.target_critics, jax.random.fold_in(key, 5)).min(0).max(-1)
        target = td_target(batch.reward, c.discount, batch.terminal.astype(float), next_q)

        # Everything conservative is computed on these rows only.
        now, now_log_prob = state.actor.sample_n(batch.obs[:k], now_key, c.sampled_actions)
        later, later_log_prob = state.actor.sample_n(
            batch.next_obs[:k], next_key, c.sampled_actions
        )
        uniform = jax.random.uniform(uniform_key, now.shape, minval=-1.0, maxval=1.0)
        v_ref = batch.mc_return[:k]
        conservative_part = _ConservativeRows(
            obs=batch.obs[:k],
            actions=jnp.concatenate([batch.action[:k, None], uniform, now, later], axis=1),
            log_prob=jnp.concatenate([now_log_prob, later_log_prob], axis=1),
            target=target[:k],
            v_ref=v_ref if c.calibrate else jnp.full_like(v_ref, -jnp.inf),
            keep=kept[:k].astype(float),
        )
        count = jnp.maximum(conservative, 1) if dynamic else conservative
        multiplier = (
            jnp.minimum(jnp.exp(state.log_multiplier), MAX_MULTIPLIER)
            if c.lagrange
            else jnp.ones(())
        )

        def conservative_loss(
            critic: CriticEnsemble, rows: _ConservativeRows
        ) -> tuple[Float[Array, ""], Metrics]:
            q = critic(rows.obs[:, None], rows.actions)
            q_data, q_uniform, q_policy = jnp.split(q, [1, 1 + c.sampled_actions], axis=-1)
            q_data = q_data[..., 0]
            td = td_error(q_data, rows.target)
            gap = jax.vmap(
                lambda data, uni, pol: conservative_gap(
                    data, uni, pol, rows.log_prob, self.action_dim, rows.v_ref
                )
            )(q_data, q_uniform, q_policy)
            bounded = (q_policy < rows.v_ref[:, None]).mean((0, 2))
            q_data = q_data.mean(0)
            if dynamic:
                td, gap, bounded, q_data = (x * rows.keep for x in (td, gap, bounded, q_data))
            return mean_over_batch(td + c.alpha * multiplier * gap.sum(0), size), {
                "td_loss": mean_over_batch(td, size),
                "q_mean": mean_over_batch(q_data, size),
                "conservative_gap": mean_over_batch(gap.mean(0), count),
                "calibrated_fraction": mean_over_batch(bounded, count),
            }

        def plain_loss(critic: CriticEnsemble) -> tuple[Float[Array, ""], Metrics]:
            q = critic(batch.obs[first_plain:], batch.action[first_plain:])
            td, q = td_error(q, target[first_plain:]), q.mean(0)
            if dynamic:
                td, q = td * ~kept, q * ~kept
            loss = mean_over_batch(td, size)
            return loss, {"td_loss": loss, "q_mean": mean_over_batch(q, size)}

        parts = []
        if k > 0:
            counted = None if isinstance(conservative, int) else conservative
            parts.append(sum_and_grad(conservative_loss, state.critic, conservative_part, counted))
        if first_plain < size:
            parts.append(jax.value_and_grad(plain_loss, has_aux=True)(state.critic))
        q_loss = sum(loss for (loss, _), _ in parts)
        grads = jax.tree.map(lambda *g: sum(g), *(g for _, g in parts))
        metrics: Metrics = {}
        for (_, more), _ in parts:
            metrics |= {name: metrics.get(name, 0.0) + value for name, value in more.items()}
        critic, critic_opt = apply_gradients(
            self.critic_optimizer, state.critic, grads, state.critic_opt
        )

        temperature = jnp.exp(state.log_temperature)

        def actor_loss(actor: SquashedGaussianPolicy) -> tuple[Float[Array, ""], Float[Array, ""]]:
            action, log_prob = actor.sample_n(batch.obs, actor_key, 1)
            q = state.critic(batch.obs, action[:, 0]).min(0)
            return soft_actor_loss(log_prob[:, 0], q, temperature).mean(), log_prob.mean()

        (a_loss, mean_log_prob), grads = jax.value_and_grad(actor_loss, has_aux=True)(state.actor)
        actor, actor_opt = apply_gradients(
            self.actor_optimizer, state.actor, grads, state.actor_opt
        )
        log_temperature, temperature_opt = apply_gradients(
            self.actor_optimizer,
            state.log_temperature,
            temperature_gradient(mean_log_prob, self.action_dim),
            state.temperature_opt,
        )
        log_multiplier, multiplier_opt = state.log_multiplier, state.multiplier_opt
        if c.lagrange and k > 0:
            # Gradient ascent on the multiplier's exponent, with the conservative rows' mean gap.
            slack = metrics["conservative_gap"] - c.lagrange_threshold
            log_multiplier, multiplier_opt = apply_gradients(
                self.critic_optimizer, log_multiplier, -multiplier * slack, multiplier_opt
            )
            if dynamic:  # it rests where there is no such row
                log_multiplier, multiplier_opt = jax.tree.map(
                    lambda new, old: jnp.where(conservative > 0, new, old),
                    (log_multiplier, multiplier_opt),
                    (state.log_multiplier, state.multiplier_opt),
                )

        new = CalQLState(
            actor=actor,
            critic=critic,
            target_critic=polyak(state.target_critic, critic, c.polyak),
            log_temperature=log_temperature,
            log_multiplier=log_multiplier,
            actor_opt=actor_opt,
            critic_opt=critic_opt,
            temperature_opt=temperature_opt,
            multiplier_opt=multiplier_opt,
        )
        return new, {
            "critic_loss": q_loss,
            "actor_loss": a_loss,
            **metrics,
            "td_target_mean": target.mean(),
            "entropy": -mean_log_prob,
            "entropy_temperature": temperature,
            "lagrange_multiplier": multiplier,
        }
