"""What a CPU does in blocks and in turn is what other devices do at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stratdiff.cpu import aligned_empty, over_seeds, over_states, sum_and_grad
from stratdiff.nn import MLP


@pytest.mark.parametrize("rows", [5, 32, 64, 75])
def test_sum_and_grad_is_the_gradient_of_the_whole_sum(rows):
    net = MLP(3, (8,), 1, jax.random.key(0), final_gain=1.0)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(rows, 3)), jnp.float32)
    y = jnp.asarray(rng.normal(size=rows), jnp.float32)

    def loss(net, rows):
        x, y = rows
        error = jnp.square(net(x)[:, 0] - y)
        return error.sum(), {"largest": error.sum() * 2}

    (value, sums), grads = jax.jit(lambda n, r: sum_and_grad(loss, n, r))(net, (x, y))
    expected, expected_grads = jax.value_and_grad(lambda n: loss(n, (x, y))[0])(net)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(sums["largest"], 2 * expected, rtol=1e-5)
    for found, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
