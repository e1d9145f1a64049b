"""The solver and the guidance against distributions whose score and energy are known exactly.

The probability-flow ODE of a Gaussian is linear, so noise of exactly zero mean and unit covariance
gives samples of exactly the solver's mean and covariance: no sampling error remains.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

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


def solve(score, noise, steps, clip=False, solver="multistep"):
    sampler = jax.jit(lambda z: dpm_solver(score, z, SDE, steps, solver, clip))
    return np.asarray(sampler(jnp.asarray(noise)), np.float64)


def moments(x):
    return x.mean(0), np.cov(x.T, bias=True)


def lam64(t):
    alpha = np.exp(log_alpha64(t))
    return np.log(alpha / np.sqrt(1 - alpha**2))


class Published:
    """The algorithms of arXiv 2211.01095 in float64, one formula after another, for a Gaussian."""

    def __init__(self, mean, covariance, clip):
        self.mean, self.covariance = mean, covariance
        self.cut = (lambda x: np.clip(x, -1, 1)) if clip else lambda x: x

    def scales(self, t):
        alpha = np.exp(log_alpha64(t))
        return alpha, np.sqrt(1 - alpha**2)

    def data(self, x, t):
        """E[a | a_t] of a Gaussian, without going through the score."""
        alpha, sigma = self.scales(t)
        marginal = alpha**2 * self.covariance + sigma**2 * np.eye(len(self.mean))
        gain = alpha * self.covariance @ np.linalg.inv(marginal)
        return self.cut(self.mean + (x - alpha * self.mean) @ gain.T)

    def move(self, x, start, end, data):
        """σ_t/σ_s x - α_t (exp(-h) - 1) data."""
        h = lam64(end) - lam64(start)
        alpha, sigma = self.scales(end)
        return sigma / self.scales(start)[1] * x - alpha * (np.exp(-h) - 1) * data

    def multistep(self, x, steps):
        """Algorithm 2, DPM-Solver++ (2M), at times whose λ have equal distances."""
        inner = np.linspace(lam64(1.0), lam64(1e-3), steps + 1)[1:-1]
        found = [optimize.brentq(lambda t, lam=lam: lam64(t) - lam, 1e-4, 1.0) for lam in inner]
        t = [1.0, *found, 1e-3]
        data = [self.data(x, t[0])]
        x = self.move(x, t[0], t[1], data[0])
        for i in range(2, steps + 1):
            r = (lam64(t[i - 1]) - lam64(t[i - 2])) / (lam64(t[i]) - lam64(t[i - 1]))
            data.append(self.data(x, t[i - 1]))
            mixed = (1 + 1 / (2 * r)) * data[-1] - 1 / (2 * r) * data[-2]
            x = self.move(x, t[i - 1], t[i], mixed)
        return self.cut(x)

    def singlestep(self, x, steps):
        """Algorithm 1, DPM-Solver++ (2S), as CEP calls it: t uniform, orders 2, 2, ..., 2, 1 (, 1).

        All evaluations are at times uniform in t, so a step of order 2 covers two intervals, and
        its r is that of the first of them.
        """
        t = np.linspace(1.0, 1e-3, steps + 1)
        orders = [2] * (steps // 2) + [1] if steps % 2 else [2] * (steps // 2 - 1) + [1, 1]
        i = 0
        for order in orders:
            data = self.data(x, t[i])
            if order == 2:
                r = (lam64(t[i + 1]) - lam64(t[i])) / (lam64(t[i + 2]) - lam64(t[i]))
                middle = self.data(self.move(x, t[i], t[i + 1], data), t[i + 1])
                data = (1 - 1 / (2 * r)) * data + 1 / (2 * r) * middle
            x = self.move(x, t[i], t[i + order], data)
            i += order
        assert i == steps
        return self.cut(x)


@pytest.mark.parametrize(("steps", "clip"), [(1, False), (2, False), (15, False), (8, True)])
@pytest.mark.parametrize("solver", ["multistep", "singlestep"])
def test_steps_are_those_of_the_published_algorithm(solver, steps, clip):
    noise = white_noise(500, 2)
    # With clip, wide enough for many predictions to be cut.
    covariance = COVARIANCE * (16 if clip else 1)
    with jax.enable_x64(True):
        got = solve(gaussian_score(MEAN, covariance), noise, steps, clip, solver)
    expected = getattr(Published(MEAN, covariance, clip), solver)(noise, steps)
    assert (np.abs(expected) == 1).mean() > 0.1 or not clip
    # float64 throughout; at t = 1 x0 is a difference divided by α = 0.0066.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


def test_gaussian_is_reached_with_many_steps():
    x = solve(gaussian_score(MEAN, COVARIANCE), white_noise(2000, 2), 100)
    mean, covariance = moments(x @ TURN)
    # The start N(0, I) ignores α(1) MEAN = 0.002, which the flow shrinks to 0.0006.
    np.testing.assert_allclose(mean, MEAN @ TURN, atol=0.002)
    # The solver leaves 0.1 %.
    np.testing.assert_allclose(np.diag(covariance), np.array([0.09, 0.01]) + LEFT, rtol=0.01)
    np.testing.assert_allclose(covariance[0, 1], 0.0, atol=0.0003)


def test_fifteen_steps_reach_mean_and_covariance():
    # Standard deviations are off by 2 %.
    score = gaussian_score(MEAN, COVARIANCE)
    x = solve(score, white_noise(4000, 2), 15)
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.01)
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, rtol=0.06, atol=1e-3)


# Times uniform in t are coarse in λ near t = 0, so that order shows from thousands of them on.
@pytest.mark.parametrize(
    ("solver", "steps"), [("multistep", (20, 40, 80, 160)), ("singlestep", (2561, 5121, 10241))]
)
def test_solver_is_of_second_order(solver, steps):
    mean, std, x1 = 0.3, 0.5, np.linspace(-2, 2, 9)[:, None]
    a1, a0 = (np.exp(log_alpha64(t)) for t in (1.0, 1e-3))
    v1, v0 = (a**2 * std**2 + 1 - a**2 for a in (a1, a0))
    # The flow maps quantiles to quantiles: a_t is mean α plus a fixed multiple of the marginal std.
    exact, errors = a0 * mean + np.sqrt(v0 / v1) * (x1 - a1 * mean), []
    with jax.enable_x64(True):
        score = gaussian_score(np.array([mean]), np.array([[std**2]]))
        for n in steps:
            sampler = jax.jit(lambda z, n=n: dpm_solver(score, z, SDE, n, solver, clip=False))
            x = sampler(jnp.asarray(x1))
            assert x.dtype == jnp.float64
            errors.append(np.abs(np.asarray(x) - exact).max())
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 1.9 < slope < 2.1
    assert errors[-1] < 1e-3


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
    got, covariance = moments(solve(score, white_noise(2000, 2), 100))
    # The target's mean is 0.24 to 0.32 away from the behaviour's.
    assert np.abs(expected - mean).min() > 0.2
    np.testing.assert_allclose(got, expected, atol=0.002)
    target = (1 / precision + LEFT) * np.eye(2)
    np.testing.assert_allclose(covariance, target, atol=0.01 / precision)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_guidance_scale_multiplies_a_linear_energy(scale):
    # Only for a linear Q is w f the intermediate energy of w Q: its gradient is linear in Q.
    mean, variance, linear = MEAN, 0.04, np.array([2.0, -3.0])
    energy = quadratic_energy(mean[None], variance, linear, 0.0)
    score = guided(gaussian_score(mean, variance * np.eye(2)), energy, scale)
    got, covariance = moments(solve(score, white_noise(2000, 2), 100))
    np.testing.assert_allclose(got, mean + scale * variance * linear, atol=0.002)
    np.testing.assert_allclose(covariance, (variance + LEFT) * np.eye(2), atol=0.01 * variance)


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
