"""Networks of actors and critics."""

from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from stratdiff.cpu import over_states
from stratdiff.nn import MLP, Init, stack
from stratdiff.policy import Kind, Policy

# An action at a bound has an infinite pre-image under tanh; this far inside it has a density.
EDGE = 1e-3


class CriticEnsemble(eqx.Module):
    """K independent Q-functions; their weights are stacked along a leading axis of size K."""

    members: MLP

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        n_critics: int,
        key: PRNGKeyArray,
        layer_norm: bool = False,
        final_gain: float = 1e-2,
        init: Init = "orthogonal",
        norm_after: bool = False,
    ) -> None:
        members = [
            MLP(
                obs_dim + action_dim, hidden, 1, k, init=init, final_gain=final_gain,
                layer_norm=layer_norm, norm_after=norm_after,
            )
            for k in jax.random.split(key, n_critics)
        ]  # fmt: skip
        self.members = stack(members)

    def __call__(
        self, obs: Float[Array, "*#batch obs"], action: Float[Array, "*batch act"]
    ) -> Float[Array, "critics *batch"]:
        """Q_k(s, a). `obs` broadcasts: pass [B, 1, S] with actions [B, M, A]."""
        return jax.vmap(lambda member: member.split_input(obs, action)[..., 0])(self.members)

    def for_actions(
        self, obs: Float[Array, "batch obs"], actions: Float[Array, "batch n act"]
    ) -> Float[Array, "critics batch n"]:
        """Q_k of several actions of each state, their differences in low precision.

        For inference.
        """

        def whole(
            members: MLP, obs: Float[Array, "*batch obs"], actions: Float[Array, "*batch n act"]
        ) -> Float[Array, "critics *batch n"]:
            return jax.vmap(lambda member: member.with_shared_input(obs, actions)[..., 0])(members)

        return over_states(whole, self.members, obs, actions)


class SquashedGaussianPolicy(eqx.Module):
    """tanh of a Gaussian whose mean and standard deviation depend on the state (SAC, Cal-QL)."""

    net: MLP
    kind: ClassVar[Kind] = "squashed"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        key: PRNGKeyArray,
        log_std: float = 0.0,
    ) -> None:
        """`log_std`: about what the log standard deviation starts at, through the last bias."""
        net = MLP(obs_dim, hidden, 2 * action_dim, key)
        start = net.layers[-1].bias.at[action_dim:].add(log_std)
        self.net = eqx.tree_at(lambda n: n.layers[-1].bias, net, start) if log_std else net

    def _mean_and_log_std(
        self, obs: Float[Array, "*batch obs"]
    ) -> tuple[Float[Array, "*batch act"], Float[Array, "*batch act"]]:
        mean, log_std = jnp.split(self.net(obs), 2, axis=-1)
        return mean, jnp.clip(log_std, -20.0, 2.0)

    def mode(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """The deterministic action tanh(mean)."""
        return jnp.tanh(self._mean_and_log_std(obs)[0])

    def sample(
        self, obs: Float[Array, "*batch obs"], key: PRNGKeyArray
    ) -> Float[Array, "*batch a"]:
        """One action per state."""
        return self.sample_n(obs, key, 1)[0][..., 0, :]

    def sample_n(
        self, obs: Float[Array, "*batch obs"], key: PRNGKeyArray, n: int
    ) -> tuple[Float[Array, "*batch n act"], Float[Array, "*batch n"]]:
        """`n` reparametrised actions per state and their log-densities."""
        mean, log_std = (x[..., None, :] for x in self._mean_and_log_std(obs))
        noise = jax.random.normal(key, (*mean.shape[:-2], n, mean.shape[-1]))
        pre = mean + jnp.exp(log_std) * noise
        return jnp.tanh(pre), _squashed_log_prob(pre, noise, log_std)

    def log_prob(
        self, obs: Float[Array, "*batch obs"], action: Float[Array, "*batch act"]
    ) -> Float[Array, "*batch"]:
        """Log-density of an action, of one at a bound that of the action `EDGE` inside of it."""
        mean, log_std = self._mean_and_log_std(obs)
        pre = jnp.arctanh(jnp.clip(action, -1 + EDGE, 1 - EDGE))
        return _squashed_log_prob(pre, (pre - mean) * jnp.exp(-log_std), log_std)


def _squashed_log_prob(
    pre: Float[Array, "*batch act"], noise: Float[Array, "*batch act"], log_std: Float[Array, "..."]
) -> Float[Array, "*batch"]:
    """log π(tanh(u)) of u = mean + exp(log_std) · noise."""
    gaussian = -0.5 * (jnp.square(noise) + jnp.log(2 * jnp.pi)) - log_std
    # log(1 - tanh(u)²) = 2 (log 2 - u - softplus(-2u)), without cancellation.
    squash = 2 * (jnp.log(2.0) - pre - jax.nn.softplus(-2 * pre))
    return (gaussian - squash).sum(-1)


class GaussianPolicy(eqx.Module):
    """Gaussian with mean tanh(net(s)) and a state-independent log standard deviation (IQL)."""

    net: MLP
    log_std: Float[Array, " act"]
    kind: ClassVar[Kind] = "gaussian"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        key: PRNGKeyArray,
        final_gain: float = 1e-2,
        init: Init = "orthogonal",
    ) -> None:
        self.net = MLP(obs_dim, hidden, action_dim, key, init=init, final_gain=final_gain)
        self.log_std = jnp.zeros(action_dim)

    def mode(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """The deterministic action, the mean."""
        return jnp.tanh(self.net(obs))

    def sample(
        self, obs: Float[Array, "*batch obs"], key: PRNGKeyArray
    ) -> Float[Array, "*batch a"]:
        """One action per state."""
        return self.sample_n(obs, key, 1)[..., 0, :]

    def sample_n(
        self, obs: Float[Array, "*batch obs"], key: PRNGKeyArray, n: int
    ) -> Float[Array, "*batch n act"]:
        """`n` actions per state, cut to [-1, 1]."""
        mean = self.mode(obs)[..., None, :]
        noise = jax.random.normal(key, (*mean.shape[:-2], n, mean.shape[-1]))
        return jnp.clip(mean + jnp.exp(self._log_std()) * noise, -1.0, 1.0)

    def log_prob(
        self, obs: Float[Array, "*batch obs"], action: Float[Array, "*batch act"]
    ) -> Float[Array, "*batch"]:
        """Log-density of an action (of the Gaussian before the cut)."""
        log_std = self._log_std()
        z = (action - self.mode(obs)) * jnp.exp(-log_std)
        return -(0.5 * jnp.square(z) + 0.5 * jnp.log(2 * jnp.pi) + log_std).sum(-1)

    def _log_std(self) -> Float[Array, " act"]:
        return jnp.clip(self.log_std, -5.0, 2.0)


def numpy_policy(
    actor: Any,
    obs_mean: Float[np.ndarray, " obs"],
    obs_std: Float[np.ndarray, " obs"],
    about: dict[str, Any] | None = None,
) -> Policy:
    """The NumPy policy of an actor network, or of P of them stacked on a leading axis."""
    layers = [(np.array(layer.weight), np.array(layer.bias)) for layer in actor.net.layers]
    log_std = np.array(actor.log_std) if actor.kind == "gaussian" else None
    if layers[0][0].ndim == 2:
        layers = [(w[None], b[None]) for w, b in layers]
        log_std = None if log_std is None else log_std[None]
    return Policy(actor.kind, layers, obs_mean, obs_std, log_std, about)
