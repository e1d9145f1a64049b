"""What a CPU does in blocks and in turn is what other devices do at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stratdiff.cpu import aligned_empty, low_precision, over_seeds, over_states, sum_and_grad
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
    whole = jax.jit(jax.value_and_grad(lambda n: loss(n, (x, y))[0]))
    expected, expected_grads = whole(net)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(sums["largest"], 2 * expected, rtol=1e-5)
    for found, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 32, 40, 64, 75])
def test_sum_and_grad_of_the_first_rows(count):
    """Rows beyond the count may be anything; blocks of them are not looked at."""
    net, rng = MLP(3, (8,), 1, jax.random.key(0), final_gain=1.0), np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(75, 3)), jnp.float32)
    keep = (jnp.arange(75) < count).astype(float)

    def loss(net, rows):
        x, keep = rows
        error = jnp.square(net(x)[:, 0]) * keep
        return error.sum(), {"rows": keep.sum()}

    def found(net, x, count):
        return sum_and_grad(loss, net, (x, keep), count)

    beyond = -(-count // 32) * 32
    for rows in (x, x.at[beyond:].set(jnp.nan)):
        (value, sums), grads = jax.jit(found)(net, rows, jnp.asarray(count))
        whole = jax.jit(jax.value_and_grad(lambda n, x: jnp.square(n(x)[:, 0]).sum()))
        expected, expected_grads = whole(net, x[:count]) if count else (0.0, grads)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert sums["rows"] == count
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
            assert count or not np.any(a)


def network(seed):
    return MLP(3, (8,), 1, jax.random.key(seed), final_gain=1.0)


def test_over_seeds_is_the_function_of_each_seed():
    net = jax.tree.map(lambda *x: jnp.stack(x), network(0), network(1), network(2))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 3)), jnp.float32)

    def function(net, x):
        return {"out": net(x), "sum": x.sum()}

    found = jax.jit(lambda n, x: over_seeds(function, n, x))(net, x)
    alone, plain = jax.jit(lambda n, x: over_seeds(function, n, x)), jax.jit(function)
    for i in range(3):
        expected = plain(network(i), x[i])
        one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], (net, x))
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][i], value, rtol=1e-5, atol=1e-6)
            # A seed among others has the bits of a run of its own.
            np.testing.assert_array_equal(found[name][i], alone(*one)[name][0])


@pytest.mark.parametrize("states", [5, 64, 150])
def test_over_states_is_the_plain_function_over_seeds_and_blocks(states):
    """150 states are two blocks and a rest; each of two seeds has weights of its own."""
    net = jax.tree.map(lambda *x: jnp.stack(x), network(0), network(1))
    rng = np.random.default_rng(0)
    obs = jnp.asarray(rng.normal(size=(2, states, 2)), jnp.float32)
    actions = jnp.asarray(rng.normal(size=(2, states, 4, 1)), jnp.float32)

    def function(net, obs, actions):
        shape = (*actions.shape[:-1], obs.shape[-1])
        joint = jnp.concatenate([jnp.broadcast_to(obs[..., None, :], shape), actions], -1)
        return net(joint)[None, ..., 0]

    found = jax.jit(jax.vmap(lambda n, o, a: over_states(function, n, o, a)))(net, obs, actions)
    assert found.shape == (2, 1, states, 4)
    plain = jax.jit(function)
    for i in range(2):
        expected = plain(network(i), obs[i], actions[i])
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (1000, 17)])
def test_arrays_that_jax_uses_without_a_copy(shape):
    for _ in range(5):
        array = aligned_empty(shape, np.float32)
        assert (array.shape, array.dtype) == (shape, np.float32)
        assert array.ctypes.data % 64 == 0
    array[...] = 2.5
    on_device = jax.device_put(array, may_alias=True)
    np.testing.assert_array_equal(on_device, array)
    if jax.default_backend() == "cpu":
        assert on_device.unsafe_buffer_pointer() == array.ctypes.data


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16 amx_tile", "bfloat16"),
        ("flags\t\t: fpu amx_bf16 amx_tile", "bfloat16"),
        ("Features\t: fp asimd sve bf16 i8mm", "bfloat16"),
        ("flags\t\t: fpu avx2 fma f16c", "float32"),
        ("flags\t\t: fpu avx512f avx512_vnni svebf16x", "float32"),
        (None, "float32"),
    ],
)
def test_low_precision_is_what_the_processor_multiplies(monkeypatch, about, expected):
    def read_text(path, **_):
        assert str(path) == "/proc/cpuinfo"
        if about is None:
            raise FileNotFoundError
        return about

    monkeypatch.setattr("pathlib.Path.read_text", read_text)
    assert jnp.dtype(low_precision.__wrapped__()) == expected
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert low_precision.__wrapped__() == jnp.bfloat16
