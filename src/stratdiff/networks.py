"""Network building blocks: every module is a pytree whose leaves are its weights.

All modules take arrays with any number of leading batch dimensions, so a batch needs no `vmap`.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

Init = Literal["uniform", "orthogonal"]
Activation = Literal["relu", "silu"]

T = TypeVar("T", bound=PyTree)
Rows = TypeVar("Rows", bound=PyTree)
Sums = dict[str, Float[Array, ""]]

_ACTIVATIONS = {"relu": jax.nn.relu, "silu": jax.nn.silu}


def adam_update(
    params: T, grads: T, opt: optax.OptState, learning_rate: float | Float[Array, ""]
) -> tuple[T, optax.OptState]:
    """One Adam step (Kingma & Ba 2015, arXiv 1412.6980) with the moments in `opt`."""
    direction, opt = optax.scale_by_adam().update(grads, opt)
    return jax.tree.map(lambda p, d: p - learning_rate * d, params, direction), opt


def adam_init(params: PyTree) -> optax.OptState:
    """Zero moments for `adam_update`."""
    shapes = jax.eval_shape(optax.scale_by_adam().init, params)
    return jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), shapes)


# Rows taken at a time on a CPU: 30 actions of 32 states in two layers of 256 are 2 MB, about a
# core's second-level cache; forward alone, twice as many are best (docs/performance.md).
CPU_BLOCK = 32
CPU_FORWARD_BLOCK = 64


def over_seeds(function: Callable[..., T], *arrays: PyTree) -> T:
    """`function` of each seed: all arrays have the seeds as their leading axis.

    As `jax.vmap(function)(*arrays)`; but on a CPU the seeds take turns, as the values of all of
    them leave its cache. Each then has the bits of a run of its own.
    """
    return jax.lax.platform_dependent(
        *arrays,
        cpu=lambda *x: jax.lax.map(lambda one: function(*one), x),
        default=jax.vmap(function),
    )


def sum_and_grad(
    loss: Callable[[T, Rows], tuple[Float[Array, ""], Sums]], params: T, rows: Rows
) -> tuple[tuple[Float[Array, ""], Sums], T]:
    """Value and gradient by `params` of a loss that is a sum over rows, and its further sums.

    As `jax.value_and_grad(loss, has_aux=True)`; but on a CPU the sum is taken in blocks of
    `CPU_BLOCK` rows, so that the layers' values stay in its cache.
    """
    whole = jax.value_and_grad(loss, has_aux=True)

    def blocks(params: T, rows: Rows) -> tuple[tuple[Float[Array, ""], Sums], T]:
        n = len(jax.tree.leaves(rows)[0])
        full = n - n % CPU_BLOCK
        shaped = jax.tree.map(lambda x: x[:full].reshape(-1, CPU_BLOCK, *x.shape[1:]), rows)
        zero = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(whole, params, rows)
        )
        total, _ = jax.lax.scan(
            lambda total, block: (jax.tree.map(jnp.add, total, whole(params, block)), None),
            zero,
            shaped,
        )
        if full < n:
            rest = jax.tree.map(lambda x: x[full:], rows)
            total = jax.tree.map(jnp.add, total, whole(params, rest))
        return total

    return jax.lax.platform_dependent(params, rows, cpu=blocks, default=whole)


def copy(tree: T) -> T:
    """The same weights in buffers of their own, so that a state may be donated."""
    return jax.tree.map(lambda x: jnp.asarray(np.array(x)), tree)


def stack(trees: list[T]) -> T:
    """Pytrees of one structure as one, with a leading axis."""
    return jax.tree.map(lambda *x: jnp.asarray(np.stack([np.asarray(a) for a in x])), *trees)


def numpy_rng(key: PRNGKeyArray) -> np.random.Generator:
    """A NumPy generator for this key.

    Initial weights are made with NumPy: XLA would compile a program per shape, seconds in all.
    """
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _orthogonal(rng: np.random.Generator, n_in: int, n_out: int) -> np.ndarray:
    """A uniformly random matrix with orthonormal rows or columns (Saxe et al. 2014)."""
    tall = rng.normal(size=(max(n_in, n_out), min(n_in, n_out)))
    q, r = np.linalg.qr(tall)
    q *= np.sign(np.diag(r))
    return q if n_in >= n_out else q.T


def dot(x: Float[Array, "*batch in"], weight: Float[Array, "in out"]) -> Float[Array, "*batch out"]:
    """x W, in the precision of W.

    All batch dimensions are made one first: gradients by W are then one plain matrix product.
    """
    rows = x.reshape(-1, x.shape[-1])
    product = low_precision_dot if weight.dtype == jnp.bfloat16 else jnp.matmul
    return product(rows, weight).reshape(*x.shape[:-1], weight.shape[-1])


@jax.custom_vjp
def low_precision_dot(
    x: Float[Array, "rows in"], weight: Float[Array, "in out"]
) -> Float[Array, "rows out"]:
    """x W of numbers rounded to bfloat16, summed in float32. No gradient by W."""
    return jnp.matmul(x.astype(jnp.bfloat16), weight, preferred_element_type=jnp.float32)


low_precision_dot.defvjp(
    lambda x, weight: (low_precision_dot(x, weight), weight),
    lambda weight, g: (low_precision_dot(g, weight.T), None),
)


def low_precision(net: T) -> T:
    """The network with its matrices rounded to bfloat16, for inference."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.ndim == 2 else x, net)


class Linear(eqx.Module):
    """x W + b. `uniform` draws U(-1/sqrt(in), 1/sqrt(in)); `orthogonal` an orthogonal W, zero b."""

    weight: Float[Array, "in out"]
    bias: Float[Array, " out"]

    def __init__(
        self,
        n_in: int,
        n_out: int,
        key: PRNGKeyArray,
        init: Init = "uniform",
        gain: float = 1.0,
    ) -> None:
        rng = numpy_rng(key)
        if init == "orthogonal":
            weight, bias = gain * _orthogonal(rng, n_in, n_out), np.zeros(n_out)
        else:
            bound = gain / n_in**0.5
            weight = rng.uniform(-bound, bound, (n_in, n_out))
            bias = rng.uniform(-bound, bound, n_out)
        self.weight = jnp.asarray(weight.astype(np.float32))
        self.bias = jnp.asarray(bias.astype(np.float32))

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        return dot(x, self.weight) + self.bias


class LayerNorm(eqx.Module):
    """Layer normalisation over the last axis with a learned scale and shift."""

    scale: Float[Array, " dim"]
    shift: Float[Array, " dim"]

    def __init__(self, dim: int) -> None:
        self.scale = jnp.ones(dim)
        self.shift = jnp.zeros(dim)

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        mean = x.mean(-1, keepdims=True)
        variance = jnp.square(x - mean).mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-6) * self.scale + self.shift


class MLP(eqx.Module):
    """Hidden layers with an activation (and layer normalisation before it, if asked), then linear.

    `final_gain` scales the last layer's initial weights: small values start the output near zero.
    """

    layers: list[Linear]
    norms: list[LayerNorm]
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        n_in: int,
        hidden: Sequence[int],
        n_out: int,
        key: PRNGKeyArray,
        activation: Activation = "relu",
        init: Init = "orthogonal",
        final_gain: float = 1e-2,
        layer_norm: bool = False,
    ) -> None:
        sizes = [n_in, *hidden, n_out]
        keys = jax.random.split(key, len(sizes) - 1)
        gain = 2**0.5 if init == "orthogonal" else 1.0
        gains = [gain] * len(hidden) + [final_gain]
        self.layers = [
            Linear(a, b, k, init, g)
            for a, b, k, g in zip(sizes[:-1], sizes[1:], keys, gains, strict=True)
        ]
        self.norms = [LayerNorm(h) for h in hidden] if layer_norm else []
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        return self._after_first(self.layers[0](x))

    def split_input(self, *parts: Float[Array, "..."]) -> Float[Array, "*batch out"]:
        """The network on the concatenation of `parts`, whose batch dimensions broadcast.

        The first layer is applied part by part, so a state that many actions share is multiplied
        once.
        """
        weight, start = self.layers[0].weight, 0
        total = self.layers[0].bias
        for part in parts:
            total = total + dot(part, weight[start : start + part.shape[-1]])
            start += part.shape[-1]
        return self._after_first(total)

    def around(
        self, shared: Float[Array, "*batch in1"], own: Float[Array, "*batch n in2"]
    ) -> Float[Array, "*batch n out"]:
        """The network on [shared, own] for n inputs that have `shared` in common, for inference.

        The values at the first of the n are computed in full, and what the others differ from
        them by in low precision: it is the differences that keep three digits.
        """
        first, size = self.layers[0], shared.shape[-1]
        state = dot(shared, first.weight[:size]) + first.bias
        x = state[..., None, :] + dot(own, first.weight[size:])
        for i, layer in enumerate(self.layers[1:-1]):
            h = self._activate(i, x)
            weight = layer.weight.astype(jnp.bfloat16)
            x = layer(h[..., :1, :]) + dot(h - h[..., :1, :], weight)
        return self.layers[-1](self._activate(-1, x))

    def _after_first(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch out"]:
        for i, layer in enumerate(self.layers[1:]):
            x = layer(self._activate(i, x))
        return x

    def _activate(self, i: int, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        return _ACTIVATIONS[self.activation](self.norms[i](x) if self.norms else x)


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
    ) -> None:
        keys = jax.random.split(key, n_critics)
        members = [MLP(obs_dim + action_dim, hidden, 1, k, layer_norm=layer_norm) for k in keys]
        self.members = stack(members)

    def __call__(
        self, obs: Float[Array, "*#batch obs"], action: Float[Array, "*batch act"]
    ) -> Float[Array, "critics *batch"]:
        """Q_k(s, a). `obs` broadcasts: pass [B, 1, S] with actions [B, M, A]."""
        return jax.vmap(lambda member: member.split_input(obs, action)[..., 0])(self.members)

    def around(
        self, obs: Float[Array, "batch obs"], actions: Float[Array, "batch n act"]
    ) -> Float[Array, "critics batch n"]:
        """Q_k of several actions of each state, their differences in low precision.

        For inference. On a CPU in blocks of states, and seeds take turns: as `over_seeds`.
        """

        def whole(
            members: MLP, obs: Float[Array, "*batch obs"], actions: Float[Array, "*batch n act"]
        ) -> Float[Array, "critics *batch n"]:
            return jax.vmap(lambda member: member.around(obs, actions)[..., 0])(members)

        @sequential_vmap
        def blocks(
            members: MLP, obs: Float[Array, "batch obs"], actions: Float[Array, "batch n act"]
        ) -> Float[Array, "critics batch n"]:
            rows = jax.lax.map(
                lambda row: whole(members, *row), (obs, actions), batch_size=CPU_FORWARD_BLOCK
            )
            return jnp.moveaxis(rows, 1, 0)

        return jax.lax.platform_dependent(self.members, obs, actions, cpu=blocks, default=whole)


class SquashedGaussianPolicy(eqx.Module):
    """tanh of a Gaussian whose mean and standard deviation depend on the state (SAC, Cal-QL)."""

    net: MLP

    def __init__(
        self, obs_dim: int, action_dim: int, hidden: Sequence[int], key: PRNGKeyArray
    ) -> None:
        self.net = MLP(obs_dim, hidden, 2 * action_dim, key)

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
        gaussian = -0.5 * (jnp.square(noise) + jnp.log(2 * jnp.pi)) - log_std
        # log(1 - tanh(u)²) = 2 (log 2 - u - softplus(-2u)), without cancellation.
        squash = 2 * (jnp.log(2.0) - pre - jax.nn.softplus(-2 * pre))
        return jnp.tanh(pre), (gaussian - squash).sum(-1)


class GaussianPolicy(eqx.Module):
    """Gaussian with mean tanh(net(s)) and a state-independent log standard deviation (IQL)."""

    net: MLP
    log_std: Float[Array, " act"]

    def __init__(
        self, obs_dim: int, action_dim: int, hidden: Sequence[int], key: PRNGKeyArray
    ) -> None:
        self.net = MLP(obs_dim, hidden, action_dim, key)
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


class FourierFeatures(eqx.Module):
    """Random Fourier features of a scalar: [sin 2πft, cos 2πft], frequencies fixed at N(0, scale²).

    Song et al. 2021 (arXiv 2011.13456), with `n` features in all.
    """

    frequencies: Float[Array, " half"]

    def __init__(self, n: int, key: PRNGKeyArray, scale: float = 30.0) -> None:
        self.frequencies = jnp.asarray(
            (scale * numpy_rng(key).normal(size=n // 2)).astype(np.float32)
        )

    def __call__(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch n"]:
        angle = 2 * jnp.pi * t[..., None] * jax.lax.stop_gradient(self.frequencies)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class ResidualBlock(eqx.Module):
    """SiLU(W1 x) + Wc SiLU(c), then SiLU(W2 ·), plus a skip (linear where the widths differ)."""

    first: Linear
    condition: Linear
    second: Linear
    skip: Linear | None

    def __init__(self, n_in: int, n_out: int, n_condition: int, key: PRNGKeyArray) -> None:
        k1, k2, k3, k4 = jax.random.split(key, 4)
        self.first = Linear(n_in, n_out, k1)
        self.condition = Linear(n_condition, n_out, k2)
        self.second = Linear(n_out, n_out, k3)
        self.skip = None if n_in == n_out else Linear(n_in, n_out, k4)

    def __call__(
        self, x: Float[Array, "*batch in"], silu_c: Float[Array, "*#batch cond"]
    ) -> Float[Array, "*batch out"]:
        h = jax.nn.silu(self.first(x)) + self.condition(silu_c)
        h = jax.nn.silu(self.second(h))
        return h + (x if self.skip is None else self.skip(x))


class DenseUNet(eqx.Module):
    """The score network's body h_θ(a_t, t, s) (METHOD 1; the dense U-Net of CEP, arXiv 2304.12824).

    Down A→w0→w1→w2, middle w2→w2, up to w1 and w0, a linear layer to A. Every up step also sees the
    output of the down block of its level. About 1.6 M weights at the default widths.
    """

    time_features: FourierFeatures
    time_embedding: Linear
    obs_embedding: Linear
    mixer: tuple[Linear, Linear]
    down: list[ResidualBlock]
    middle: ResidualBlock
    up: list[ResidualBlock]
    out: Linear

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        key: PRNGKeyArray,
        widths: Sequence[int] = (512, 256, 128),
    ) -> None:
        embedding, condition = 32, 128
        keys = iter(jax.random.split(key, 6 + 2 * len(widths)))
        self.time_features = FourierFeatures(embedding, next(keys))
        self.time_embedding = Linear(embedding, embedding, next(keys))
        self.obs_embedding = Linear(obs_dim, embedding, next(keys))
        self.mixer = (
            Linear(2 * embedding, condition, next(keys)),
            Linear(condition, condition, next(keys)),
        )
        ins = [action_dim, *widths[:-1]]
        self.down = [
            ResidualBlock(a, b, condition, next(keys)) for a, b in zip(ins, widths, strict=True)
        ]
        self.middle = ResidualBlock(widths[-1], widths[-1], condition, next(keys))
        levels = list(widths)[::-1]
        self.up = [
            ResidualBlock(2 * a, b, condition, next(keys))
            for a, b in zip(levels[:-1], levels[1:], strict=True)
        ]
        self.out = Linear(2 * widths[0], action_dim, next(keys))

    def __call__(
        self,
        noisy_action: Float[Array, "*batch act"],
        t: Float[Array, "*#batch"],
        obs: Float[Array, "*#batch obs"],
    ) -> Float[Array, "*batch act"]:
        """h_θ. `t` and `obs` broadcast, so states shared by many actions are embedded once."""
        time = self.time_embedding(self.time_features(t))
        state = jax.nn.silu(self.obs_embedding(obs))
        shape = jnp.broadcast_shapes(time.shape[:-1], state.shape[:-1])
        both = [jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in (time, state)]
        first, second = self.mixer
        c = jax.nn.silu(second(jax.nn.silu(first(jnp.concatenate(both, axis=-1)))))
        x, skips = noisy_action, []
        for block in self.down:
            x = block(x, c)
            skips.append(x)
        x = self.middle(x, c)
        for up in self.up:
            x = up(jnp.concatenate([x, skips.pop()], axis=-1), c)
        return self.out(jnp.concatenate([x, skips.pop()], axis=-1))
