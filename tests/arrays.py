"""Plain NumPy in float64, what networks are compared with."""

import jax.numpy as jnp
import numpy as np


def f64(x):
    return np.asarray(x, np.float64)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def silu(x):
    return x / (1 + np.exp(-x))


def linear(layer, x):
    return x @ f64(layer.weight) + f64(layer.bias)
