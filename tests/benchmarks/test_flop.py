"""The counts of arithmetic that the benchmarks divide by, against counts made by hand."""

import jax
import jax.numpy as jnp

from benchmarks import flop
from stratdiff.nn import MLP


def test_loops_branches_and_types():
    w = jnp.ones((3, 5))

    def function(x):  # [4, 3]
        def body(x, _):
            return x + (x @ w) @ w.T, None  # 2 · 4 · 3 · 5, twice

        x, _ = jax.lax.scan(body, x, None, length=7)
        x = jax.lax.cond(x[0, 0] > 0, lambda x: x, lambda x: x @ w @ w.T, x)
        low = jnp.matmul(
            x.astype(jnp.bfloat16), w.astype(jnp.bfloat16), preferred_element_type=jnp.float32
        )
        return low.sum() + x.sum()

    one = 2 * 4 * 3 * 5
    expected = {"float32": (7 + 1) * 2 * one, "bfloat16": one}
    assert flop.count(jax.jit(function), jnp.ones((4, 3))) == expected


def test_gradient_of_a_network():
    net = MLP(6, (8, 8), 1, jax.random.key(0))
    x = jnp.ones((10, 6))
    forward = 2 * 10 * (6 * 8 + 8 * 8 + 8)
    # Backwards every layer has a product for its weights, all but the first one for its input.
    backward = 2 * forward - 2 * 10 * 6 * 8
    found = flop.count(lambda net: jax.grad(lambda n: n(x).sum())(net), net)
    assert found == {"float32": forward + backward}
