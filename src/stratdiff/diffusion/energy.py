"""Contrastive energy prediction: f_φ(s, a_t, t) learns log E[exp(β Q(s, a_0)) | a_t] (METHOD 2).

Lu et al. 2023 (arXiv 2304.12824), self-normalised over the M support actions of a state.
"""

import dataclasses

import equinox as eqx
import jax
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from stratdiff.diffusion.sde import VPSDE
from stratdiff.networks import (
    MLP,
    FourierFeatures,
    Linear,
    adam_init,
    adam_update,
    sum_and_grad,
)

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class EnergyConfig:
    """The energy model and its training."""

    hidden: tuple[int, ...] = (256, 256, 256, 256)
    """Hidden layer widths."""
    learning_rate: float = 3e-4
    """Adam learning rate."""
    batch_size: int = 256
    """States per offline update."""
    inverse_temperature: float = 3.0
    """β in exp(β Q), with Q in the suite's reference reward units."""


class EnergyNet(eqx.Module):
    """MLP on [a_t, embedded t, s] with one output."""

    time_features: FourierFeatures
    time_embedding: Linear
    mlp: MLP

    def __init__(
        self, obs_dim: int, action_dim: int, key: PRNGKeyArray, hidden: tuple[int, ...]
    ) -> None:
        k1, k2, k3 = jax.random.split(key, 3)
        self.time_features = FourierFeatures(32, k1)
        self.time_embedding = Linear(32, 32, k2)
        self.mlp = MLP(
            action_dim + 32 + obs_dim, hidden, 1, k3, "silu", init="uniform", final_gain=1.0
        )

    def __call__(
        self,
        obs: Float[Array, "*#batch obs"],
        noisy_action: Float[Array, "*batch act"],
        t: Float[Array, "*#batch"],
    ) -> Float[Array, "*batch"]:
        """f_φ. `obs` and `t` broadcast: what the actions of one state share is computed once."""
        time = self.time_embedding(self.time_features(t))
        return self.mlp.split_input(noisy_action, time, obs)[..., 0]


class EnergyState(eqx.Module):
    """Weights and the optimiser's moments."""

    net: EnergyNet
    opt: optax.OptState


def contrastive_loss(
    energy: Float[Array, "*batch support"], beta_q: Float[Array, "*batch support"]
) -> Float[Array, "*batch"]:
    """-Σ_i softmax_i(β Q̄(s, a^i)) log softmax_i(f(s, a^i_t, t)) per state (METHOD 2)."""
    return -(jax.nn.softmax(beta_q) * jax.nn.log_softmax(energy)).sum(-1)


@dataclasses.dataclass(frozen=True)
class EnergyModel:
    """Static description of the energy model; its methods are pure functions of a state."""

    config: EnergyConfig
    obs_dim: int
    action_dim: int
    sde: VPSDE = VPSDE()

    def init(self, key: PRNGKeyArray) -> EnergyState:
        """Fresh weights."""
        net = EnergyNet(self.obs_dim, self.action_dim, key, self.config.hidden)
        return EnergyState(net, adam_init(net))

    def update(
        self,
        state: EnergyState,
        obs: Float[Array, "batch obs"],
        support: Float[Array, "batch support act"],
        q: Float[Array, "batch support"],
        key: PRNGKeyArray,
    ) -> tuple[EnergyState, Metrics]:
        """One contrastive step: one t per state, one noise per action.

        `q` is the target Q of each support action, in reference reward units.
        """
        t_key, noise_key = jax.random.split(key)
        t = jax.random.uniform(t_key, (len(obs), 1), minval=self.sde.t_min, maxval=1.0)
        noisy = self.sde.perturb(support, t, jax.random.normal(noise_key, support.shape))
        beta_q = self.config.inverse_temperature * q

        def loss(
            net: EnergyNet, rows: tuple[Float[Array, "..."], ...]
        ) -> tuple[Float[Array, ""], Metrics]:
            obs, noisy, t, beta_q = rows
            losses = contrastive_loss(net(obs[:, None], noisy, t), beta_q)
            return losses.sum() / len(q), {}

        rows = (obs, noisy, t, beta_q)
        (value, _), grads = sum_and_grad(loss, state.net, rows)
        net, opt = adam_update(state.net, grads, state.opt, self.config.learning_rate)
        # The loss's floor is the entropy of the target weights; the excess is left to learn.
        entropy = contrastive_loss(beta_q, beta_q).mean()
        return EnergyState(net, opt), {"energy_loss": value, "energy_excess": value - entropy}
