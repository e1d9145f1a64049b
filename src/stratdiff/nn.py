"""Network building blocks: every module is a pytree whose leaves are its weights.

All modules take arrays with any number of leading batch dimensions, so a batch needs no `vmap`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.custom_batching
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray, PyTree

from stratdiff import cpu

Init = Literal["uniform", "orthogonal"]
Activation = Literal["relu", "silu"]
Precision = Literal["float32", "bfloat16"]

T = TypeVar("T", bound=PyTree)

_ACTIVATIONS = {"relu": jax.nn.relu, "silu": jax.nn.silu}


def init_optimizer(optimizer: optax.GradientTransformation, params: PyTree) -> optax.OptState:
    """The optimiser's first state, as one compiled program: XLA would compile one a shape."""
    return jax.jit(optimizer.init)(params)


def apply_gradients(
    optimizer: optax.GradientTransformation, params: T, grads: T, state: optax.OptState
) -> tuple[T, optax.OptState]:
    """(parameters, optimiser state) after one step of the optimiser."""
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@jax.custom_batching.custom_vmap
def _always(key: PRNGKeyArray) -> Bool[Array, ""]:
    """True, but the compiler does not know: a square leaves 0 or 1 when divided by 4."""
    number = jax.random.key_data(key)[0]
    return (number * number) % 4 != 2


@_always.def_vmap
def _(size: int, batched: list[bool], key: Key[Array, " size"]) -> tuple[Bool[Array, ""], bool]:
    return _always(key[0]), False  # a predicate of its own for each seed would make a select


@jax.custom_batching.custom_vmap
def in_common(x: Array) -> Array:
    """A value that all seeds have in common, so that a branch on it stays one under `vmap`."""
    return x


@in_common.def_vmap
def _(size: int, batched: list[bool], x: Array) -> tuple[Array, bool]:
    return (x[0] if batched[0] else x), False


def isolated(function: Callable[..., T], key: PRNGKeyArray, *operands: PyTree) -> T:
    """`function(key, *operands)` as a computation of its own in the compiled program.

    The compiler does not fuse across a branch, so the sums round the same whatever surrounds them:
    with ρ = 1 the base algorithm's update has the bits of plain fine-tuning. The branch is always
    taken. (`jax.lax.optimization_barrier` is gone on a CPU before the compiler fuses.)
    """
    function = jax.jit(function, inline=True)  # traced once for both uses
    shapes = jax.eval_shape(function, key, *operands)

    def zeros(*_: PyTree) -> T:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.lax.cond(_always(key), function, zeros, key, *operands)


def put(x: np.ndarray) -> Array:
    """The array, which must not change later, on the device.

    `jnp.asarray` would compile a program for each shape.
    """
    return jax.device_put(x)


def copy(tree: T) -> T:
    """The same weights in buffers of their own, so that a state may be donated."""
    return jax.tree.map(lambda x: x if _shape_only(x) else put(np.array(x)), tree)


def stack(trees: list[T]) -> T:
    """Pytrees of one structure as one, with a leading axis."""

    def one(*leaves: Any) -> Array:
        if _shape_only(leaves[0]):
            return jnp.stack(leaves)
        return put(np.stack([np.asarray(leaf) for leaf in leaves]))

    return jax.tree.map(one, *trees)


def _shape_only(x: Any) -> bool:
    """Whether only shapes are asked for, by `jax.eval_shape`: then nothing is drawn."""
    return isinstance(x, jax.core.Tracer)


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
    """x W, in the precision of W, or in that of `products`.

    All batch dimensions are made one first: gradients by W are then one plain matrix product.
    """
    rows = x.reshape(-1, x.shape[-1])
    if weight.dtype == jnp.bfloat16:
        product = low_precision_dot(rows, weight)
    else:
        product = (rounded_dot if _low_products() else jnp.matmul)(rows, weight)
    return product.reshape(*x.shape[:-1], weight.shape[-1])


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


@jax.custom_vjp
def rounded_dot(
    x: Float[Array, "rows in"], weight: Float[Array, "in out"]
) -> Float[Array, "rows out"]:
    """x W of numbers rounded to bfloat16, summed in float32, and so its gradients' products."""
    return _rounded(x, weight)


rounded_dot.defvjp(
    lambda x, weight: (rounded_dot(x, weight), (x, weight)),
    lambda both, g: (_rounded(g, both[1].T), _rounded(both[0].T, g, transposed=True)),
)


def _rounded(
    a: Float[Array, "rows in"], b: Float[Array, "in out"], transposed: bool = False
) -> Float[Array, "rows out"]:
    """a b of rounded numbers; with `transposed`, a is the transpose of an array in memory."""
    if cpu.low_precision() == jnp.bfloat16 and cpu.has_low_product(transposed, b.shape[-1]):
        return low_precision_dot(a, b.astype(jnp.bfloat16))
    # As float32: products of two rounded numbers are exact, so only the sums round otherwise.
    # Unlike a conversion there and back, the compiler may not leave this rounding out.
    return jnp.matmul(*(jax.lax.reduce_precision(x, 8, 7) for x in (a, b)))


def _low_products() -> bool:
    now: str | None = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return now == "bfloat16"


def products(precision: Precision) -> AbstractContextManager[Any]:
    """Within it, what is traced multiplies matrices in this precision.

    Weights, sums and all else stay in float32. "float32" is JAX's own default for the device.
    JAX's setting carries the word, since JAX knows a traced program by it; what it does by itself
    depends on the device (a CPU ignores it), so it is `dot` that rounds.
    """
    if precision == "bfloat16":
        return jax.default_matmul_precision("bfloat16")
    return jax.default_matmul_precision(None) if _low_products() else nullcontext()


def low_precision(net: T, dtype: Any = jnp.bfloat16) -> T:
    """The network with its matrices rounded to bfloat16, or another type, for inference."""
    return jax.tree.map(lambda x: x.astype(dtype) if x.ndim == 2 else x, net)


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
        if _shape_only(key):
            self.weight, self.bias = jnp.zeros((n_in, n_out)), jnp.zeros(n_out)
            return
        rng = numpy_rng(key)
        if init == "orthogonal":
            weight, bias = gain * _orthogonal(rng, n_in, n_out), np.zeros(n_out)
        else:
            bound = gain / n_in**0.5
            weight = rng.uniform(-bound, bound, (n_in, n_out))
            bias = rng.uniform(-bound, bound, n_out)
        self.weight = put(weight.astype(np.float32))
        self.bias = put(bias.astype(np.float32))

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
    """Hidden layers with an activation, then a linear one.

    `final_gain` scales the last layer's initial weights: small values start the output near zero.
    `layer_norm` normalises before each activation, with `norm_after` behind it.
    """

    layers: list[Linear]
    norms: list[LayerNorm]
    activation: Activation = eqx.field(static=True)
    norm_after: bool = eqx.field(static=True)

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
        norm_after: bool = False,
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
        self.activation, self.norm_after = activation, norm_after

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

    def with_shared_input(
        self, shared: Float[Array, "*batch in1"], own: Float[Array, "*batch n in2"]
    ) -> Float[Array, "*batch n out"]:
        """The network on [shared, own] for n inputs that have `shared` in common, for inference.

        In bfloat16, the values at the first of the n are computed in full, and what the others
        differ from them by in low precision: it is the differences that keep three digits.
        """
        low = cpu.low_precision()
        if low == jnp.float32:
            return self.split_input(shared[..., None, :], own)
        first, size = self.layers[0], shared.shape[-1]
        state = dot(shared, first.weight[:size]) + first.bias
        x = state[..., None, :] + dot(own, first.weight[size:])
        for i, layer in enumerate(self.layers[1:-1]):
            h = self._activate(i, x)
            weight = layer.weight.astype(low)
            x = layer(h[..., :1, :]) + dot(h - h[..., :1, :], weight)
        return self.layers[-1](self._activate(-1, x))

    def _after_first(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch out"]:
        for i, layer in enumerate(self.layers[1:]):
            x = layer(self._activate(i, x))
        return x

    def _activate(self, i: int, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        activation = _ACTIVATIONS[self.activation]
        if not self.norms:
            return activation(x)
        norm = self.norms[i]
        return norm(activation(x)) if self.norm_after else activation(norm(x))


class FourierFeatures(eqx.Module):
    """Random Fourier features of a scalar: [sin 2πft, cos 2πft], frequencies fixed at N(0, scale²).

    Song et al. 2021 (arXiv 2011.13456), with `n` features in all.
    """

    frequencies: Float[Array, " half"]

    def __init__(self, n: int, key: PRNGKeyArray, scale: float = 30.0) -> None:
        drawn = np.zeros(n // 2) if _shape_only(key) else numpy_rng(key).normal(size=n // 2)
        self.frequencies = put((scale * drawn).astype(np.float32))

    def __call__(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch n"]:
        angle = 2 * jnp.pi * t[..., None] * jax.lax.stop_gradient(self.frequencies)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
