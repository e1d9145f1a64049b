"""Network blocks against NumPy float64 and SciPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from stratdiff.networks import (
    MLP,
    CriticEnsemble,
    DenseUNet,
    FourierFeatures,
    GaussianPolicy,
    LayerNorm,
    Linear,
    SquashedGaussianPolicy,
    adam_init,
    adam_update,
    low_precision,
    stack,
    sum_and_grad,
)

KEY = jax.random.key(0)


def f64(x):
    return np.asarray(x, np.float64)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def silu(x):
    return x / (1 + np.exp(-x))


def linear(layer, x):
    return x @ f64(layer.weight) + f64(layer.bias)


def test_adam_equals_numpy_for_three_steps():
    params = {"w": normal(1, 4, 3), "b": normal(2, 3)}
    expected = {k: f64(v) for k, v in params.items()}
    moments = {k: [np.zeros(v.shape), np.zeros(v.shape)] for k, v in params.items()}
    opt, update = adam_init(params), jax.jit(adam_update)
    for step in range(1, 4):
        # Different sizes each step, so that both moments and their corrections matter.
        grads = {
            k: normal(10 * step + i, *v.shape) * step for i, (k, v) in enumerate(params.items())
        }
        params, opt = update(params, grads, opt, 0.01 * step)
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


def test_critics_broadcast_one_state_over_many_actions():
    critics = CriticEnsemble(4, 3, (32, 32), 5, KEY)
    obs, action = normal(1, 6, 1, 4), normal(2, 6, 7, 3)
    got = eqx.filter_jit(critics)(obs, action)
    assert got.shape == (5, 6, 7)
    joint = np.concatenate([np.broadcast_to(obs, (6, 7, 4)), action], axis=-1).astype(np.float64)
    for k in range(5):
        x = joint
        for layer in critics.members.layers[:-1]:
            x = np.maximum(x @ f64(layer.weight[k]) + f64(layer.bias[k]), 0)
        last = critics.members.layers[-1]
        expected = x @ f64(last.weight[k]) + f64(last.bias[k])
        # Values are of order 1e-2 (small last layer), float32.
        np.testing.assert_allclose(got[k], expected[..., 0], atol=1e-6)
    # Independent members: no two agree.
    assert np.abs(got[:, None] - got[None]).max(axis=(2, 3))[~np.eye(5, dtype=bool)].min() > 1e-3


def squashed_policy(action_dim):
    """A policy whose mean and standard deviation depend strongly on the state."""
    policy = SquashedGaussianPolicy(2, action_dim, (16,), KEY)
    return eqx.tree_at(lambda p: p.net.layers[-1].weight, policy, replace_fn=lambda w: 40 * w)


def squashed_log_density(policy, obs, action):
    """Change of variables a = tanh u in float64: log N(u) - Σ log(1 - a²)."""
    mean, log_std = np.split(f64(policy.net(obs)), 2, axis=-1)
    gaussian = stats.norm.logpdf(np.arctanh(action), mean[:, None], np.exp(log_std)[:, None])
    return (gaussian - np.log1p(-(action**2))).sum(-1)


def test_squashed_log_density_equals_change_of_variables():
    policy, obs = squashed_policy(3), normal(1, 50, 2)
    action, log_density = eqx.filter_jit(policy.sample_n)(obs, KEY, 20)
    assert action.shape == (50, 20, 3) and log_density.shape == (50, 20)
    action = f64(action)
    # Near ±1 the float32 action no longer determines u; most samples are away from there.
    inside = np.abs(action).max(-1) < 0.99
    assert inside.mean() > 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = squashed_log_density(policy, obs, action)
    # Within 0.99 one float32 ulp of the action moves u by 3e-6, and u/std by less than 1e-4.
    np.testing.assert_allclose(log_density[inside], expected[inside], atol=1e-3)


def test_squashed_density_integrates_to_one():
    policy, obs = squashed_policy(2), normal(1, 4, 2)
    action, log_density = eqx.filter_jit(policy.sample_n)(obs, KEY, 200_000)
    inside = (np.abs(action) < 0.8).all(-1)
    # E[1{a in box} / p(a)] is the volume of the box, 1.6², whatever the policy.
    terms = np.where(inside, np.exp(-f64(log_density)), 0.0)
    error = terms.std(1) / terms.shape[1] ** 0.5
    assert (error < 0.1).all()
    np.testing.assert_array_less(np.abs(terms.mean(1) - 1.6**2), 4 * error)


def test_squashed_log_density_is_finite_where_tanh_saturates():
    policy = SquashedGaussianPolicy(2, 1, (8,), KEY)
    last = policy.net.layers[-1]
    # Mean 30, standard deviation 1: tanh is 1 in float32, log(1 - a²) would be -inf.
    policy = eqx.tree_at(
        lambda p: (p.net.layers[-1].weight, p.net.layers[-1].bias),
        policy,
        (jnp.zeros_like(last.weight), jnp.array([30.0, 0.0])),
    )
    action, log_density = policy.sample_n(normal(1, 1, 2), KEY, 10_000)
    assert (np.abs(action) <= 1).all()
    # log p = log N(u) + 2u - 2 log 2 for large u, of mean -½ log 2πe + 60 - 2 log 2.
    expected = -0.5 * np.log(2 * np.pi * np.e) + 60 - 2 * np.log(2)
    # Its spread is about 2.1: 0.1 is over four standard errors of 10 000.
    np.testing.assert_allclose(f64(log_density).mean(), expected, atol=0.1)


def test_squashed_sample_and_mode_follow_the_gaussian():
    policy, obs = squashed_policy(2), normal(1, 3, 2)
    mean, log_std = np.split(f64(policy.net(obs)), 2, axis=-1)
    np.testing.assert_allclose(policy.mode(obs), np.tanh(mean), atol=1e-6)
    many = jnp.repeat(obs, 20_000, axis=0)
    action = f64(policy.sample(many, KEY)).reshape(3, 20_000, 2)
    # The median passes through tanh; 0.05 std of u is over 5 standard errors of a median.
    expected = np.tanh(mean), np.tanh(mean + 0.05 * np.exp(log_std)) - np.tanh(mean)
    assert (np.abs(np.median(action, axis=1) - expected[0]) < expected[1] + 1e-3).all()


def gaussian_policy(log_std):
    policy = GaussianPolicy(3, 2, (16,), KEY)
    weight = 30 * policy.net.layers[-1].weight
    return eqx.tree_at(
        lambda p: (p.log_std, p.net.layers[-1].weight), policy, (jnp.array(log_std), weight)
    )


# The last case lies beyond the limits [-5, 2] of the log standard deviation.
@pytest.mark.parametrize(
    ("log_std", "used"), [([-0.7, 0.4], [-0.7, 0.4]), ([0.0, 0.0], [0, 0]), ([-9.0, 3.0], [-5, 2])]
)
def test_gaussian_log_density_equals_scipy(log_std, used):
    policy, obs = gaussian_policy(log_std), normal(1, 40, 3)
    mean = np.tanh(f64(policy.net(obs)))
    action = jnp.asarray(mean + np.exp(used) * np.asarray(normal(2, 40, 2)), jnp.float32)
    expected = stats.norm.logpdf(f64(action), mean, np.exp(np.array(used, float))).sum(-1)
    # At log std -5 float32 actions are rounded by 1e-5 standard deviations.
    np.testing.assert_allclose(policy.log_prob(obs, action), expected, atol=2e-4)


def test_gaussian_samples_have_the_mean_and_spread_and_are_cut():
    policy, obs = gaussian_policy([-9.0, 0.0]), normal(1, 5, 3)
    mean = f64(policy.mode(obs))
    np.testing.assert_allclose(mean, np.tanh(f64(policy.net(obs))), atol=1e-6)
    action = f64(policy.sample_n(obs, KEY, 20_000))
    assert np.abs(action).max() == 1.0
    uncut = np.abs(mean[:, 0]) < 0.8  # the first dimension is narrow
    assert uncut.sum() >= 2
    # Log std -9 counts as -5. Standard errors: 0.0067/√20000 = 5e-5, and 0.5 % of the spread.
    np.testing.assert_allclose(action[uncut, :, 0].mean(1), mean[uncut, 0], atol=3e-4)
    np.testing.assert_allclose(action[uncut, :, 0].std(1), np.exp(-5.0), rtol=0.03)
    # The wide dimension piles up at the edges with the Gaussian's tail mass (s.e. 0.0035).
    share = (action[:, :, 1] == 1.0).mean(1)
    np.testing.assert_allclose(share, stats.norm.sf(1 - mean[:, 1]), atol=0.015)


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


def test_fourier_frequencies_get_no_gradient():
    net = DenseUNet(3, 2, KEY, (16, 8))
    action, t, obs = normal(1, 5, 2), jnp.full(5, 0.3), normal(2, 5, 3)
    grads = jax.jit(jax.grad(lambda n: jnp.square(n(action, t, obs)).sum()))(net)
    assert not np.any(grads.time_features.frequencies)
    # Everything else does.
    for layer in jax.tree.leaves(eqx.tree_at(lambda g: g.time_features, grads, None)):
        assert np.abs(layer).max() > 1e-6
    # So training leaves them where they were.
    new, _ = jax.jit(adam_update)(net, grads, adam_init(net), 0.1)
    np.testing.assert_array_equal(new.time_features.frequencies, net.time_features.frequencies)
    assert np.abs(new.out.weight - net.out.weight).max() > 0.05


def dense_unet64(net, action, t, obs):
    """METHOD 1's U-Net in NumPy, one level after the other."""
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


@pytest.mark.parametrize("layer_norm", [False, True])
def test_around_keeps_the_differences_of_q(layer_norm):
    """Far from 0 too, where all of Q in bfloat16 would lose them."""
    critic = CriticEnsemble(5, 2, (64, 64, 64), 2, jax.random.key(1), layer_norm)
    last = critic.members.layers[-1]
    critic = eqx.tree_at(
        lambda c: (c.members.layers[-1].weight, c.members.layers[-1].bias),
        critic,
        (last.weight * 1000, last.bias + 1000),
    )
    rng = np.random.default_rng(0)
    obs = jnp.asarray(rng.normal(size=(20, 5)), jnp.float32)
    actions = jnp.asarray(rng.uniform(-1, 1, (20, 16, 2)), jnp.float32)
    exact = np.asarray(critic(obs[:, None], actions))
    found = np.asarray(critic.around(obs, actions))
    assert found.shape == exact.shape
    spread = exact.std(axis=-1).mean()
    assert spread > 0.1
    assert np.sqrt(np.square(found - exact).mean()) < 0.01 * spread
    assert np.abs(found - exact).max() < 0.05 * spread
    whole = exact.astype(jnp.bfloat16).astype(np.float32)
    assert np.abs(whole - exact).max() > 0.5 * spread


def test_around_in_blocks_and_seeds_in_turn_is_the_plain_form():
    """150 states are two blocks and a rest; each of three seeds has critics of its own."""
    critics = [
        CriticEnsemble(5, 2, (16, 16), 2, key) for key in jax.random.split(jax.random.key(2), 3)
    ]
    rng = np.random.default_rng(0)
    obs = jnp.asarray(rng.normal(size=(3, 150, 5)), jnp.float32)
    actions = jnp.asarray(rng.uniform(-1, 1, (3, 150, 4, 2)), jnp.float32)
    found = jax.jit(jax.vmap(lambda c, o, a: c.around(o, a)))(stack(critics), obs, actions)
    for critic, o, a, q in zip(critics, obs, actions, found, strict=True):
        plain = jax.vmap(lambda member, o=o, a=a: member.around(o, a)[..., 0])(critic.members)
        np.testing.assert_allclose(q, plain, rtol=1e-4, atol=1e-6)


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
