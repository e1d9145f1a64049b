"""The solver and the guidance against distributions whose score and energy are known exactly.

The probability-flow ODE of a Gaussian is linear, so noise of exactly zero mean and unit covariance
gives samples of exactly the solver's mean and covariance: no sampling error remains.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from stratdiff.diffusion.sampler import dpm_solver, guided
from stratdiff.diffusion.sde import VPSDE

SDE = VPSDE()

# σ² at the solver's last time 1e-3: the samples are those of the marginal there.
LEFT = 1.0994e-4
MEAN = np.array([0.3, -0.2])
# Standard deviations 0.3 and 0.1, turned by 30 degrees.
TURN = np.array([[3**0.5 / 2, -0.5], [0.5, 3**0.5 / 2]])
COVARIANCE = TURN @ np.diag([0.09, 0.01]) @ TURN.T


def log_alpha64(t):
    return -(20.0 - 0.1) * t**2 / 4 - 0.1 * t / 2


def white_noise(n, dims):
    """Normal draws, shifted and turned to sample mean 0 and sample covariance I."""
    z = np.random.default_rng(0).normal(size=(n, dims))
    z -= z.mean(0)
    return z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T, bias=True).reshape(dims, dims))).T


def gaussian_score(mean, covariance):
    """∇ log N(a_t; α mean, α² covariance + σ² I)."""
    mean, covariance = jnp.asarray(mean), jnp.asarray(covariance)

    def score(x, t):
        alpha, sigma = SDE.alpha(t), SDE.sigma(t)
        marginal = alpha**2 * covariance + sigma**2 * jnp.eye(len(mean))
        return -(x - alpha * mean) @ jnp.linalg.inv(marginal)

    return score


def mixture_score(centres, variance):
    """∇ log of an equal mixture of isotropic Gaussians, perturbed."""
    centres = jnp.asarray(centres)

    def score(x, t):
        marginal = SDE.alpha(t) ** 2 * variance + SDE.sigma(t) ** 2
        offset = SDE.alpha(t) * centres - x[:, None]
        weight = jax.nn.softmax(-jnp.square(offset).sum(-1) / (2 * marginal), axis=-1)
        return (weight[..., None] * offset).sum(1) / marginal

    return score


def quadratic_energy(centres, variance, linear, curvature):
    """Log E[exp(linear·a - curvature ‖a‖²/2) | a_t] for an equal mixture, in closed form.

    Given its component, a is N(m, p I) with 1/p = 1/variance + α²/σ² and m = p (centre/variance +
    α a_t/σ²); a Gaussian integral gives each component's term.
    """
    centres, linear = jnp.asarray(centres), jnp.asarray(linear)

    def energy(x, t):
        alpha, sigma = SDE.alpha(t), SDE.sigma(t)
        p = 1 / (1 / variance + (alpha / sigma) ** 2)
        m = p * (centres / variance + alpha * x[:, None] / sigma**2)
        marginal = alpha**2 * variance + sigma**2
        log_weight = jax.nn.log_softmax(
            -jnp.square(x[:, None] - alpha * centres).sum(-1) / (2 * marginal), axis=-1
        )
        exponent = 2 * m @ linear - curvature * jnp.square(m).sum(-1) + p * linear @ linear
        terms = exponent / (2 * (1 + curvature * p))
        terms = terms - 0.5 * len(linear) * jnp.log(1 + curvature * p)
        return jax.nn.logsumexp(log_weight + terms, axis=-1)

    return energy


def solve(score, noise, steps, clip=False, grid="uniform"):
    noise = jnp.asarray(noise, jnp.float32)
    sampler = jax.jit(lambda z: dpm_solver(score, z, SDE, steps, clip, grid))
    return np.asarray(sampler(noise), np.float64)


def moments(x):
    return x.mean(0), np.cov(x.T, bias=True)


def solve64(noise, mean, covariance, steps, clip):
    """Algorithm 2 of arXiv 2211.01095 (DPM-Solver++ 2M) in float64, for a Gaussian."""
    t = np.linspace(1.0, 1e-3, steps + 1)
    alpha = np.exp(log_alpha64(t))
    sigma = np.sqrt(1 - alpha**2)
    lam = np.log(alpha / sigma)

    def predict(x, i):
        marginal = alpha[i] ** 2 * covariance + sigma[i] ** 2 * np.eye(len(mean))
        # E[a | a_t] of a Gaussian, without going through the score.
        gain = alpha[i] * covariance @ np.linalg.inv(marginal)
        x0 = mean + (x - alpha[i] * mean) @ gain.T
        return np.clip(x0, -1, 1) if clip else x0

    h = lam[1] - lam[0]
    data = [predict(noise, 0)]
    x = sigma[1] / sigma[0] * noise - alpha[1] * (np.exp(-h) - 1) * data[0]
    for i in range(2, steps + 1):
        previous, h = h, lam[i] - lam[i - 1]
        r = previous / h
        data.append(predict(x, i - 1))
        d = (1 + 1 / (2 * r)) * data[-1] - 1 / (2 * r) * data[-2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (np.exp(-h) - 1) * d
    return np.clip(x, -1, 1) if clip else x


@pytest.mark.parametrize(("steps", "clip"), [(2, False), (15, False), (15, True)])
def test_steps_are_those_of_the_published_algorithm(steps, clip):
    noise = white_noise(500, 2)
    # With clip, wide enough for many predictions to be cut.
    covariance = COVARIANCE * (9 if clip else 1)
    got = solve(gaussian_score(MEAN, covariance), noise, steps, clip)
    expected = solve64(noise, MEAN, covariance, steps, clip)
    assert (np.abs(expected) == 1).mean() > 0.1 or not clip
    # At t = 1 x0 is a difference divided by α = 0.0066: 1e-7 becomes some 1e-5.
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_gaussian_is_reached_with_many_steps():
    x = solve(gaussian_score(MEAN, COVARIANCE), white_noise(2000, 2), 400)
    mean, covariance = moments(x @ TURN)
    # The start N(0, I) ignores α(1) MEAN = 0.002, which the flow shrinks to 0.0006.
    np.testing.assert_allclose(mean, MEAN @ TURN, atol=0.002)
    # Solver: 2 % on the narrow axis, 0.4 % on the wide one; second order, see below.
    np.testing.assert_allclose(np.diag(covariance), np.array([0.09, 0.01]) + LEFT, rtol=0.03)
    np.testing.assert_allclose(covariance[0, 1], 0.0, atol=0.0003)


@pytest.mark.parametrize(
    ("std", "ratio"), [(0.05, (0.6, 1.0)), (0.1, (0.8, 1.0)), (0.3, (1.0, 1.35)), (1.0, (1.0, 1.2))]
)
def test_fifteen_steps_have_the_mean_but_a_rough_spread(std, ratio):
    # With t uniform the last of 15 steps is 4.5 times the one before in λ, so its correction
    # extrapolates 2.2 times the last change of x0: the spread is off by up to a third.
    x = solve(gaussian_score(MEAN[:1], np.array([[std**2]])), white_noise(2000, 1), 15)
    np.testing.assert_allclose(x.mean(), MEAN[0], atol=0.005)
    assert ratio[0] < x.std() / std < ratio[1]


def test_fifteen_steps_in_lambda_reach_mean_and_covariance():
    # Measured: mean off by 0.003, standard deviations by 2 %.
    score = gaussian_score(MEAN, COVARIANCE)
    x = solve(score, white_noise(4000, 2), 15, grid="lambda")
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.01)
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, rtol=0.06, atol=1e-3)


@pytest.mark.parametrize("std", [0.05, 0.1, 0.3, 1.0])
def test_fifteen_steps_in_lambda_reach_narrow_and_wide_spreads(std):
    x = solve(
        gaussian_score(MEAN[:1], np.array([[std**2]])), white_noise(2000, 1), 15, grid="lambda"
    )
    assert 0.97 < x.std() / std < 1.03


def test_solver_is_of_second_order():
    mean, std, x1 = 0.3, 0.5, np.linspace(-2, 2, 9)[:, None]
    a1, a0 = (np.exp(log_alpha64(t)) for t in (1.0, 1e-3))
    v1, v0 = (a**2 * std**2 + 1 - a**2 for a in (a1, a0))
    # The flow maps quantiles to quantiles: a_t is mean α plus a fixed multiple of the marginal std.
    exact = a0 * mean + np.sqrt(v0 / v1) * (x1 - a1 * mean)
    steps, errors = (160, 320, 640, 1280), []
    with jax.enable_x64(True):
        score = gaussian_score(np.array([mean]), np.array([[std**2]]))
        for n in steps:
            x = jax.jit(lambda z, n=n: dpm_solver(score, z, SDE, n, clip=False))(jnp.asarray(x1))
            assert x.dtype == jnp.float64
            errors.append(np.abs(np.asarray(x) - exact).max())
    # Steps are uniform in t and λ is steep near t = 0, so the order shows from some 100 steps on:
    # pairwise slopes are 0.4 at 15 to 20 steps, 1.5 at 20 to 40 and 2.02 to 2.04 in this range.
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 1.95 < slope < 2.1
    assert errors[-1] < 1e-4


@pytest.mark.parametrize("curvature", [0.0, 12.0])
def test_guidance_reaches_the_gaussian_target(curvature):
    mean, variance, linear = MEAN, 0.04, np.array([-6.0, 8.0])
    precision = 1 / variance + curvature
    expected = (mean / variance + linear) / precision
    score = guided(
        gaussian_score(mean, variance * np.eye(2)),
        quadratic_energy(mean[None], variance, linear, curvature),
        1.0,
    )
    got, covariance = moments(solve(score, white_noise(2000, 2), 400))
    # The target's mean is 0.24 to 0.32 away from the behaviour's.
    assert np.abs(expected - mean).min() > 0.2
    np.testing.assert_allclose(got, expected, atol=0.002)
    # The solver leaves 1 %.
    target = (1 / precision + LEFT) * np.eye(2)
    np.testing.assert_allclose(covariance, target, atol=0.02 / precision)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_guidance_scale_multiplies_a_linear_energy(scale):
    # Only for a linear Q is w f the intermediate energy of w Q: its gradient is linear in Q.
    mean, variance, linear = MEAN, 0.04, np.array([2.0, -3.0])
    energy = quadratic_energy(mean[None], variance, linear, 0.0)
    score = guided(gaussian_score(mean, variance * np.eye(2)), energy, scale)
    got, covariance = moments(solve(score, white_noise(2000, 2), 400))
    np.testing.assert_allclose(got, mean + scale * variance * linear, atol=0.002)
    np.testing.assert_allclose(covariance, (variance + LEFT) * np.eye(2), atol=0.02 * variance)


# The quadratic energy prefers -0.4, the linear one the right.
@pytest.mark.parametrize(
    ("linear", "curvature", "steps"), [(1.5, 0.0, 200), (-2.4, 6.0, 200), (-2.4, 6.0, 15)]
)
def test_guided_mode_weights(linear, curvature, steps):
    centres, variance = np.array([[-0.6], [0.5]]), 0.01
    energy = quadratic_energy(centres, variance, np.array([linear]), curvature)
    score = guided(mixture_score(centres, variance), energy, 1.0)
    # Evenly spaced quantiles instead of random noise.
    noise = stats.norm.ppf((np.arange(4001) + 0.5) / 4001)[:, None]
    share = (solve(score, noise, steps) > -0.05).mean()
    shrink = 1 + curvature * variance
    log_weight = (
        2 * linear * centres[:, 0] - curvature * centres[:, 0] ** 2 + linear**2 * variance
    ) / (2 * shrink)
    expected = 1 / (1 + np.exp(log_weight[0] - log_weight[1]))
    # Without guidance it is a half. The boundary between the modes moves a little with the start.
    assert abs(expected - 0.5) > 0.3
    np.testing.assert_allclose(share, expected, atol=0.005)


def test_exact_score_of_a_ring():
    angle = 2 * np.pi * np.arange(8) / 8
    centres = 0.7 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    noise = np.random.default_rng(0).normal(size=(8000, 2))
    x = solve(mixture_score(centres, 0.05**2), noise, 200, clip=True)
    mode = np.square(x[:, None] - centres).sum(-1).argmin(1)
    share, offset = np.bincount(mode) / len(x), x - centres[mode]
    # The standard error of a share is 0.0037.
    np.testing.assert_allclose(share, 1 / 8, atol=0.015)
    # The solver leaves 2 % at 200 steps; s.e. 0.6 %.
    np.testing.assert_allclose(offset.std(), np.sqrt(0.05**2 + LEFT), rtol=0.05)
    np.testing.assert_allclose(offset.mean(0), 0.0, atol=0.003)


def test_clip_keeps_samples_in_range():
    noise = white_noise(500, 2)
    score = gaussian_score(np.array([0.9, 0.0]), np.eye(2))
    assert np.abs(solve(score, noise, 15, clip=False)).max() > 1.5
    clipped = solve(score, noise, 15, clip=True)
    assert np.abs(clipped).max() == 1.0
    # Not all at the edges: most stay inside, spread out.
    assert (np.abs(clipped) < 1).mean() > 0.4 and clipped.std() > 0.3


def test_scale_zero_is_the_unguided_score():
    noise = white_noise(100, 2)
    score = gaussian_score(MEAN, COVARIANCE)
    energy = quadratic_energy(MEAN[None], 0.04, np.array([4.0, -6.0]), 12.0)
    np.testing.assert_array_equal(
        solve(guided(score, energy, 0.0), noise, 15), solve(score, noise, 15)
    )
