"""What the tests of the base algorithms calculate with: plain NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Adam moments of some earlier updates: the step then depends on the gradient's size, not only on
# its sign as the very first step does.
MU, NU, COUNT = 0.01, 1e-3, 3
# The networks are tiny: compiling is all the time there is.
FAST = {"xla_backend_optimization_level": 0}


def with_moments(opt):
    """The state of an Adam after COUNT updates, all its moments MU and NU."""

    def filled(value):
        return jax.tree.map(lambda x: jnp.full_like(x, value), opt[0].mu)

    return (optax.ScaleByAdamState(jnp.full((), COUNT, "int32"), filled(MU), filled(NU)), *opt[1:])


def to_numpy(tree):
    return jax.tree.map(lambda x: np.array(x, np.float64), tree)


def mlp(net, x):
    """Linear, ReLU, before or after it layer normalisation where there is one, ...; linear."""
    for i, layer in enumerate(net.layers[:-1]):
        x = x @ layer.weight + layer.bias
        if net.norm_after:
            x = np.maximum(x, 0)
        if net.norms:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * net.norms[i].scale + net.norms[i].shift
        if not net.norm_after:
            x = np.maximum(x, 0)
    return x @ net.layers[-1].weight + net.layers[-1].bias


def critics(ensemble, obs, action):
    """Q_k(s, a), [K, B]: member k is row k of every stacked weight."""
    x = np.concatenate([obs, action], -1)
    n = len(ensemble.members.layers[0].weight)
    members = [jax.tree.map(lambda w, k=k: w[k], ensemble.members) for k in range(n)]
    return np.stack([mlp(m, x)[..., 0] for m in members])


def finite_differences(loss, params, step=1e-6):
    """Central differences by every single weight of `params` (changed in place and restored)."""
    gradient = jax.tree.map(np.zeros_like, params)
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(gradient), strict=True)
    for weights, out in leaves:
        for index in np.ndindex(weights.shape):
            old = weights[index]
            weights[index] = old + step
            above = loss(params)
            weights[index] = old - step
            out[index] = (above - loss(params)) / (2 * step)
            weights[index] = old
    return gradient


def adam(params, gradient, rate):
    """Adam (Kingma & Ba, algorithm 1) at step COUNT + 1 from moments MU and NU."""

    def one(p, g):
        m = (0.9 * MU + 0.1 * g) / (1 - 0.9 ** (COUNT + 1))
        v = (0.999 * NU + 0.001 * g**2) / (1 - 0.999 ** (COUNT + 1))
        return p - rate * m / (np.sqrt(v) + 1e-8)

    return jax.tree.map(one, params, gradient)


def assert_trees_close(found, expected, **kwargs):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **kwargs)
