"""The behaviour model μ(a|s): a diffusion model trained by score matching.

See docs/method.md, section 1.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from stratdiff import cpu
from stratdiff.diffusion.sampler import Score, Solver, dpm_solver
from stratdiff.diffusion.sde import VPSDE
from stratdiff.diffusion.unet import DenseUNet
from stratdiff.nn import apply_gradients, copy, init_optimizer, low_precision
from stratdiff.options import Count, Decay, Positive, Rule, Several, Widths

Metrics = dict[str, Float[Array, ""]]
Precision = Literal["auto", "bfloat16", "float32"]
T = TypeVar("T", bound=PyTree)


@dataclasses.dataclass(frozen=True)
class BehaviourConfig:
    """The behaviour diffusion model and its training."""

    widths: Annotated[Widths, Rule(lambda x: len(x) >= 2, "two or more widths")] = (512, 256, 128)
    """Widths of the U-Net's levels."""
    learning_rate: Positive = 1e-4
    """Adam learning rate."""
    batch_size: Count = 4096
    """State-action pairs per update."""
    ema: Decay = 0.999
    """Decay of the weight average that samples are drawn with."""
    solver_steps: Count = 15
    """Evaluations of the network per sample, guided and unguided."""
    solver: Solver = "multistep"
    """DPM-Solver++: multistep in λ, or singlestep in t as in CEP's code, far less accurate."""
    precision: Precision = "auto"
    """Matrix products of sampling: bfloat16 with float32 sums, float32, or auto: bfloat16 where
    the device has it."""
    support_actions: Several = 16
    """Support actions M kept per state."""


class BehaviourState(eqx.Module):
    """Weights, their moving average (used for sampling) and the optimiser's moments."""

    net: DenseUNet
    ema: DenseUNet
    opt: optax.OptState


def denoising_error(
    h: Callable[..., Float[Array, "*batch act"]],
    action: Float[Array, "*batch act"],
    t: Float[Array, "*batch"],
    noise: Float[Array, "*batch act"],
    sde: VPSDE,
) -> Float[Array, "*batch"]:
    """‖σ(t) s_θ + z‖² per sample. As s_θ = h_θ/σ, this is ‖h_θ(a_t, t) + z‖²."""
    return jnp.square(h(sde.perturb(action, t, noise), t) + noise).sum(-1)


@dataclasses.dataclass(frozen=True)
class BehaviourModel:
    """Static description of the behaviour model; its methods are pure functions of a state."""

    config: BehaviourConfig
    obs_dim: int
    action_dim: int
    sde: VPSDE = VPSDE()

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Of the network."""
        return optax.adam(self.config.learning_rate)

    def init(self, key: PRNGKeyArray) -> BehaviourState:
        """Fresh weights."""
        net = DenseUNet(self.obs_dim, self.action_dim, key, self.config.widths)
        opt = init_optimizer(self.optimizer, net)
        return BehaviourState(net, copy(net), opt)

    def update(
        self,
        state: BehaviourState,
        obs: Float[Array, "batch obs"],
        action: Float[Array, "batch act"],
        key: PRNGKeyArray,
    ) -> tuple[BehaviourState, Metrics]:
        """One step of score matching on a batch, t ~ U[t_min, 1]."""
        t_key, noise_key = jax.random.split(key)
        t = jax.random.uniform(t_key, action.shape[:1], minval=self.sde.t_min, maxval=1.0)
        noise = jax.random.normal(noise_key, action.shape)

        def loss(net: DenseUNet) -> Float[Array, ""]:
            return denoising_error(lambda a, t: net(a, t, obs), action, t, noise, self.sde).mean()

        value, grads = jax.value_and_grad(loss)(state.net)
        net, opt = apply_gradients(self.optimizer, state.net, grads, state.opt)
        decay = self.config.ema
        ema = jax.tree.map(lambda e, w: decay * e + (1 - decay) * w, state.ema, net)
        return BehaviourState(net, ema, opt), {"behaviour_loss": value}

    def score(self, net: DenseUNet, obs: Float[Array, "*batch obs"]) -> Score:
        """∇_{a_t} log μ_t(a_t|s) = h_θ/σ(t) for these states."""
        net = self.for_sampling(net)

        def score(noisy: Float[Array, "*all act"], t: Float[Array, ""]) -> Float[Array, "*all act"]:
            return net(noisy, t, obs) / self.sde.sigma(t)

        return score

    def for_sampling(self, net: T) -> T:
        """The network in the precision that actions are sampled in."""
        if self.config.precision == "float32":
            return net
        auto = self.config.precision == "auto"
        return low_precision(net, cpu.low_precision() if auto else jnp.bfloat16)

    def support(
        self, state: BehaviourState, obs: Float[Array, "batch obs"], keys: Key[Array, " batch"]
    ) -> Float[Array, "batch support act"]:
        """M unguided actions per state; row i draws its noise from keys[i] alone."""
        shape = (self.config.support_actions, self.action_dim)
        noise = jax.vmap(lambda k: jax.random.normal(k, shape))(keys)
        score = self.score(state.ema, obs[:, None])
        return self.sample(score, noise)

    def sample(self, score: Score, noise: Float[Array, "*batch act"]) -> Float[Array, "*batch act"]:
        """Actions from noise by the configured solver."""
        c = self.config
        return dpm_solver(score, noise, self.sde, c.solver_steps, c.solver)
