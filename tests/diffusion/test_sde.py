"""The noise schedule against docs/method.md, section 1, in float64 and numerical integration."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from stratdiff.diffusion.sde import VPSDE

SDE = VPSDE()
T = np.concatenate([np.geomspace(1e-3, 1e-1, 100), np.linspace(0.1, 1.0, 101)[1:]])
T32 = jnp.asarray(T, jnp.float32)


def log_alpha64(t):
    t = np.asarray(t, np.float64)
    return -(20.0 - 0.1) * t**2 / 4 - 0.1 * t / 2


def test_alpha_equals_float64_formula():
    # float32 rounds t by 6e-8 and |d log α/dt| <= 10: 2e-6 leaves room for exp.
    np.testing.assert_allclose(SDE.alpha(T32), np.exp(log_alpha64(T32)), rtol=2e-6)


def test_sigma_equals_float64_formula_down_to_small_t():
    # Relative, so that the cancellation in 1 - α² at t = 1e-3 (5e-4 in float32) would show.
    sigma = np.sqrt(1 - np.exp(2 * log_alpha64(T32)))
    np.testing.assert_allclose(SDE.sigma(T32), sigma, rtol=2e-6)


def test_lam_equals_float64_formula():
    expected = log_alpha64(T) - 0.5 * np.log(1 - np.exp(2 * log_alpha64(T)))
    np.testing.assert_allclose(SDE.lam(T), expected, rtol=0, atol=1e-11)


def test_values_worked_by_hand():
    # log α(1) = -19.9/4 - 0.05 = -5.025; log α(1/2) = -1.24375 - 0.025 = -1.26875
    np.testing.assert_allclose(SDE.log_alpha(jnp.array([0.5, 1.0])), [-1.26875, -5.025], rtol=1e-6)
    # σ² = 1 - exp(-2 (4.975e-6 + 5e-5)) = 1.09944e-4
    np.testing.assert_allclose(SDE.sigma(jnp.array(1e-3)) ** 2, 1.09944e-4, rtol=1e-5)


@pytest.mark.parametrize("t", [1e-3, 0.07, 0.4, 1.0])
@pytest.mark.parametrize(("beta0", "beta1"), [(0.1, 20.0), (0.5, 7.0)])
def test_alpha_is_the_integral_of_the_noise_rate(t, beta0, beta1):
    # dx = -β(t)/2 x dt + ..., so α(t) = exp(-½∫β).
    integral = quad(lambda u: 0.5 * (beta0 + u * (beta1 - beta0)), 0, t)[0]
    alpha = VPSDE(beta0, beta1).alpha(jnp.array(t))
    np.testing.assert_allclose(alpha, np.exp(-integral), rtol=2e-6)


def test_signal_and_noise_power_sum_to_one():
    # Two float32 squares.
    np.testing.assert_allclose(SDE.alpha(T32) ** 2 + SDE.sigma(T32) ** 2, 1.0, atol=5e-7)


@pytest.mark.parametrize("sde", [VPSDE(), VPSDE(0.5, 7.0)])
def test_inverse_lam_returns_t(sde):
    np.testing.assert_allclose(sde.inverse_lam(sde.lam(T)), T, rtol=1e-11)


def test_lam_falls_with_t():
    assert (np.diff(SDE.lam(T)) < 0).all()


def test_perturb_mixes_action_and_noise():
    rng = np.random.default_rng(0)
    action, noise = (rng.normal(size=(5, 4, 3)).astype(np.float32) for _ in range(2))
    # One t per row, one per row and column, and one for all.
    for t in (rng.uniform(1e-3, 1, (5, 1)), rng.uniform(1e-3, 1, (5, 4)), np.array(0.3)):
        t = t.astype(np.float32)
        alpha = np.exp(log_alpha64(t))[..., None]
        expected = alpha * action + np.sqrt(1 - alpha**2) * noise
        got = SDE.perturb(jnp.asarray(action), jnp.asarray(t), jnp.asarray(noise))
        # float32 sums of numbers up to 4.
        np.testing.assert_allclose(got, expected, atol=3e-6)
