"""Layers and optimiser steps against NumPy in float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from arrays import f64, linear, normal, silu

from stratdiff import cpu
from stratdiff.nn import (
    MLP,
    FourierFeatures,
    LayerNorm,
    Linear,
    apply_gradients,
    copy,
    dot,
    init_optimizer,
    isolated,
    low_precision,
    products,
    stack,
)

KEY = jax.random.key(0)


def test_three_steps_of_an_optimizer_equal_adam_in_numpy():
    params = {"w": normal(1, 4, 3), "b": normal(2, 3)}
    expected = {k: f64(v) for k, v in params.items()}
    moments = {k: [np.zeros(v.shape), np.zeros(v.shape)] for k, v in params.items()}
    optimizer = optax.adam(lambda count: 0.01 * (count + 1))
    opt = init_optimizer(optimizer, params)
    update = jax.jit(lambda p, g, opt: apply_gradients(optimizer, p, g, opt))
    for step in range(1, 4):
        # Different sizes each step, so that both moments and their corrections matter.
        grads = {
            k: normal(10 * step + i, *v.shape) * step for i, (k, v) in enumerate(params.items())
        }
        params, opt = update(params, grads, opt)
        for k, g in grads.items():
            first, second = moments[k]
            first[:] = 0.9 * first + 0.1 * f64(g)
            second[:] = 0.999 * second + 0.001 * f64(g) ** 2
            corrected = first / (1 - 0.9**step), second / (1 - 0.999**step)
            expected[k] = expected[k] - 0.01 * step * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    for k in params:
        # Steps of 0.01 to 0.03 on weights up to 3, in float32 (1 - 0.999 costs four digits).
        np.testing.assert_allclose(params[k], expected[k], atol=3e-6)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_mlp_equals_numpy(activation, layer_norm):
    mlp = MLP(5, (16, 8), 3, KEY, activation, "uniform", 1.0, layer_norm)
    x = normal(1, 7, 5)
    act = silu if activation == "silu" else lambda v: np.maximum(v, 0)
    expected = f64(x)
    for layer in mlp.layers[:-1]:
        expected = linear(layer, expected)
        if layer_norm:
            centred = expected - expected.mean(-1, keepdims=True)
            expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        expected = act(expected)
    # float32 sums of some ten terms of order 1.
    np.testing.assert_allclose(eqx.filter_jit(mlp)(x), linear(mlp.layers[-1], expected), atol=2e-5)


def test_layer_norm_scales_and_shifts():
    norm = eqx.tree_at(lambda n: (n.scale, n.shift), LayerNorm(6), (normal(1, 6), normal(2, 6)))
    x = 3 + 2 * normal(3, 4, 6)
    z = (f64(x) - f64(x).mean(1, keepdims=True)) / np.sqrt(f64(x).var(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(norm(x), z * f64(norm.scale) + f64(norm.shift), atol=1e-5)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_split_input_equals_concatenated_input(layer_norm):
    mlp = MLP(3 + 4 + 2, (32, 32), 5, KEY, final_gain=1.0, layer_norm=layer_norm)
    action, time, obs = normal(1, 6, 4, 3), normal(2, 4), normal(3, 6, 1, 2)
    parts = [np.broadcast_to(x, (6, 4, x.shape[-1])) for x in (action, time, obs)]
    expected = mlp(jnp.asarray(np.concatenate(parts, axis=-1)))
    # The order of float32 sums differs.
    np.testing.assert_allclose(mlp.split_input(action, time, obs), expected, atol=1e-5)


def test_orthogonal_and_uniform_initial_weights():
    layer = Linear(8, 5, KEY, "orthogonal", 3.0)
    # Orthonormal columns times the gain 3.
    np.testing.assert_allclose(f64(layer.weight).T @ f64(layer.weight), 9 * np.eye(5), atol=1e-5)
    assert not np.any(layer.bias)
    layer = Linear(25, 4000, KEY)
    # U(-1/5, 1/5): the extreme of 100 000 draws is within 1 % of the bound, the std is 0.2/√3.
    for values in (f64(layer.weight), f64(layer.bias)):
        assert 0.198 < np.abs(values).max() <= 0.2
        np.testing.assert_allclose(values.std(), 0.2 / 3**0.5, rtol=0.03)


def test_fourier_features_equal_numpy_and_have_the_scale():
    features = FourierFeatures(2000, KEY, 30.0)
    assert features(jnp.zeros((3, 4))).shape == (3, 4, 2000)
    # 1000 frequencies: the standard error of their spread is 2.2 %.
    np.testing.assert_allclose(f64(features.frequencies).std(), 30.0, rtol=0.09)
    t = jnp.array([0.001, 0.3, 1.0])
    angle = 2 * np.pi * f64(t)[:, None] * f64(features.frequencies)
    # Angles reach 600; float32 rounds them by up to 6e-5, twice.
    expected = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    np.testing.assert_allclose(features(t), expected, atol=2e-4)


@pytest.mark.parametrize("outputs", [7, 1])
@pytest.mark.parametrize("processor", [jnp.float32, jnp.bfloat16])
def test_products_in_bfloat16_round_operands_alone(monkeypatch, processor, outputs):
    monkeypatch.setattr(cpu, "low_precision", lambda: processor)

    def rounded(x):
        return f64(np.asarray(x).astype(ml_dtypes.bfloat16))

    x, weight, g = normal(1, 5, 6, 300), normal(2, 300, outputs), normal(3, 5, 6, outputs)

    @jax.jit
    def both(x, weight, g):
        value, back = jax.vjp(dot, x, weight)
        return value, *back(g)

    full = both(x, weight, g)
    with products("bfloat16"):
        low = both(x, weight, g)
        with products("float32"):
            inner = both(x, weight, g)
    rows, of_rows = x.reshape(30, 300), g.reshape(30, outputs)
    wanted = [
        rounded(rows) @ rounded(weight),
        rounded(of_rows) @ rounded(weight).T,
        rounded(rows).T @ rounded(of_rows),
    ]
    for found, expected in zip(low, wanted, strict=True):
        assert found.dtype == jnp.float32
        # Sums of up to 300 products in float32: far below the 0.4 % of a rounded number.
        np.testing.assert_allclose(f64(found).reshape(expected.shape), expected, atol=2e-4)
    for found, expected, other in zip(inner, full, low, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert np.abs(f64(found) - f64(other)).max() > 5e-3
    np.testing.assert_array_equal(both(x, weight, g)[0], full[0])


def test_low_precision_sums_in_float32_and_has_the_gradient_by_its_input():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 300)), jnp.float32)
    net = Linear(300, 7, jax.random.key(0))
    rounded = low_precision(net)
    exact = np.asarray(x.astype(jnp.bfloat16), np.float64) @ np.asarray(rounded.weight, np.float64)
    np.testing.assert_allclose(rounded(x), exact + np.asarray(net.bias), atol=1e-5)
    gradient = jax.grad(lambda x: rounded(x).sum())(x)
    wanted = np.broadcast_to(np.asarray(rounded.weight, np.float64).sum(1), x.shape)
    np.testing.assert_allclose(gradient, wanted, atol=1e-5)


def test_isolated_is_the_function_as_a_branch_of_its_own():
    def function(key, x):
        return {"y": jnp.sin(x) + jax.random.normal(key, x.shape)}

    keys, x = jax.random.split(KEY, 200), normal(1, 200, 3)
    both = jax.jit(jax.vmap(lambda k, x: isolated(function, k, x)))
    # Whatever the key, the branch is taken: zeros would show.
    expected = jax.vmap(function)(keys, x)["y"]
    np.testing.assert_allclose(both(keys, x)["y"], expected, rtol=1e-6, atol=1e-6)
    for key in keys[:20]:
        found = jax.jit(isolated, static_argnums=0)(function, key, x[0])["y"]
        np.testing.assert_allclose(found, function(key, x[0])["y"], rtol=1e-6, atol=1e-6)
    # Over seeds too it is a branch and no select, which the compiler would fuse across.
    assert "conditional(" in both.lower(keys, x).compile().as_text()


def test_copy_has_buffers_of_its_own():
    tree = {"w": normal(1, 4, 3), "b": normal(2, 3)}
    other = copy(tree)
    for name, leaf in tree.items():
        np.testing.assert_array_equal(other[name], leaf)
        assert other[name].unsafe_buffer_pointer() != leaf.unsafe_buffer_pointer()


def test_stack_has_a_leading_axis():
    trees = [{"w": normal(seed, 4, 3)} for seed in range(5)]
    found = stack(trees)["w"]
    assert found.shape == (5, 4, 3)
    for one, tree in zip(found, trees, strict=True):
        np.testing.assert_array_equal(one, tree["w"])
