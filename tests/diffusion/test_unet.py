"""The dense U-Net against NumPy in float64 and the paper's size."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from arrays import f64, linear, normal, silu

from stratdiff.diffusion.unet import DenseUNet
from stratdiff.nn import apply_gradients, init_optimizer

KEY = jax.random.key(0)


def test_fourier_frequencies_get_no_gradient():
    net = DenseUNet(3, 2, KEY, (16, 8))
    action, t, obs = normal(1, 5, 2), jnp.full(5, 0.3), normal(2, 5, 3)
    grads = jax.jit(jax.grad(lambda n: jnp.square(n(action, t, obs)).sum()))(net)
    assert not np.any(grads.time_features.frequencies)
    # Everything else does.
    for layer in jax.tree.leaves(eqx.tree_at(lambda g: g.time_features, grads, None)):
        assert np.abs(layer).max() > 1e-6
    # So training leaves them where they were.
    adam = optax.adam(0.1)
    new, _ = jax.jit(lambda *x: apply_gradients(adam, *x))(net, grads, init_optimizer(adam, net))
    np.testing.assert_array_equal(new.time_features.frequencies, net.time_features.frequencies)
    assert np.abs(new.out.weight - net.out.weight).max() > 0.05


def dense_unet64(net, action, t, obs):
    """The U-Net of docs/method.md, section 1, in NumPy, one level after the other."""
    angle = 2 * np.pi * t[:, None] * f64(net.time_features.frequencies)
    time = linear(net.time_embedding, np.concatenate([np.sin(angle), np.cos(angle)], axis=1))
    state = silu(linear(net.obs_embedding, obs))
    first, second = net.mixer
    c = linear(second, silu(linear(first, np.concatenate([time, state], axis=1))))

    def block(b, x):
        h = silu(linear(b.first, x)) + linear(b.condition, silu(c))
        return silu(linear(b.second, h)) + (x if b.skip is None else linear(b.skip, x))

    one = block(net.down[0], action)
    two = block(net.down[1], one)
    three = block(net.down[2], two)
    middle = block(net.middle, three)
    up_two = block(net.up[0], np.concatenate([middle, three], axis=1))
    up_one = block(net.up[1], np.concatenate([up_two, two], axis=1))
    return linear(net.out, np.concatenate([up_one, one], axis=1))


def test_dense_unet_equals_numpy():
    net = DenseUNet(5, 3, KEY, (64, 32, 16))
    action, obs = normal(1, 20, 3), normal(2, 20, 5)
    t = jnp.asarray(np.random.default_rng(3).uniform(1e-3, 1.0, 20), jnp.float32)
    expected = dense_unet64(net, f64(action), f64(t), f64(obs))
    assert expected.std() > 0.05
    # Fourier angles lose 1e-5 in float32; sums of up to 128 terms of order 0.1.
    np.testing.assert_allclose(eqx.filter_jit(net)(action, t, obs), expected, atol=1e-5)


def test_dense_unet_has_the_papers_size():
    net = DenseUNet(17, 6, KEY)
    count = sum(x.size for x in jax.tree.leaves(net))

    def dense(n_in, n_out):
        return n_in * n_out + n_out

    def block(n_in, n_out):
        skip = dense(n_in, n_out) if n_in != n_out else 0
        return dense(n_in, n_out) + dense(128, n_out) + dense(n_out, n_out) + skip

    expected = 16 + dense(32, 32) + dense(17, 32) + dense(64, 128) + dense(128, 128)
    blocks = [(6, 512), (512, 256), (256, 128), (128, 128), (256, 256), (512, 512)]
    expected += sum(block(*b) for b in blocks) + dense(1024, 6)
    assert count == expected
    assert 1.5e6 < count < 1.75e6


def test_dense_unet_broadcasts_state_and_time():
    net = DenseUNet(17, 6, KEY, (64, 32, 16))
    obs, action, t = normal(1, 4, 1, 17), normal(2, 4, 9, 6), jnp.array(0.37)
    call = eqx.filter_jit(net)
    repeated = call(
        action.reshape(36, 6), jnp.full(36, 0.37), jnp.repeat(obs[:, 0], 9, axis=0)
    ).reshape(4, 9, 6)
    # Values of order 0.1 in float32, summed in another order.
    np.testing.assert_allclose(call(action, t, obs), repeated, atol=1e-6)
    # One t per state, too.
    t = jnp.array([[0.1], [0.2], [0.6], [0.9]])
    repeated = call(
        action.reshape(36, 6), jnp.repeat(t[:, 0], 9), jnp.repeat(obs[:, 0], 9, axis=0)
    ).reshape(4, 9, 6)
    np.testing.assert_allclose(call(action, t, obs), repeated, atol=1e-6)
