"""Both solvers with exact scores, on rings and Gaussians whose density is known.

The code that samples and measures is docs/figures/solvers.py, which also draws the picture; the
scores are float64 NumPy, called from the solver. The bounds are around what an independent
implementation measured (the table of docs/fidelity.md).
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

_path = Path(__file__).parents[2] / "docs" / "figures" / "solvers.py"
_spec = importlib.util.spec_from_file_location("solvers", _path)
solvers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(solvers)

# Of as many exact samples: total variation, and share beyond 3 standard deviations.
FLOOR = {0.05: (0.04, 0.011), 0.085: (0.07, 0.008), 0.15: (0.10, 0.005)}


@pytest.mark.parametrize("std", FLOOR)
def test_floor_of_exact_samples(std):
    ring = solvers.ring(std)
    assert ring.cells().sum() == pytest.approx(1)
    samples = ring.draw(solvers.SAMPLES, 1)
    assert ring.total_variation(samples) == pytest.approx(FLOOR[std][0], abs=0.01)
    assert ring.far(samples) == pytest.approx(FLOOR[std][1], abs=0.002)
    # Samples of another ring are told apart.
    assert ring.total_variation(samples + std / 2) > FLOOR[std][0] + 0.1


def test_score_is_the_slope_of_the_log_density():
    ring = solvers.ring(0.085).tilted(2.0)
    x = np.random.default_rng(0).normal(size=(50, 2)) * 0.5
    for t in (0.02, 0.3, 0.9):
        centres, variance = ring.noised(t)

        def log_density(x, centres=centres, variance=variance):
            distance = np.square(centres - x[:, None]).sum(-1)
            return np.log((ring.weights * np.exp(-distance / (2 * variance))).sum(1))

        step = 1e-5 * np.eye(2)
        slope = [(log_density(x + e) - log_density(x - e)) / 2e-5 for e in step]
        known = np.isfinite(slope).all(0)
        assert known.mean() > 0.5
        expected = np.transpose(slope)[known]
        np.testing.assert_allclose(ring.score(x, t)[known], expected, rtol=1e-4, atol=1e-4)


# (std, solver, evaluations): (total variation, share beyond 3 standard deviations)
MEASURED = {
    (0.05, "multistep", 15): (0.10, 0.028),
    (0.085, "multistep", 15): (0.10, 0.013),
    (0.15, "multistep", 15): (0.11, 0.006),
    (0.085, "multistep", 8): (0.26, 0.025),
    (0.05, "singlestep", 15): (0.55, 0.376),
    (0.085, "singlestep", 15): (0.37, 0.041),
    (0.15, "singlestep", 15): (0.21, 0.008),
}


@pytest.mark.parametrize(("std", "solver", "steps"), MEASURED)
def test_ring(std, solver, steps):
    ring, (variation, far) = solvers.ring(std), MEASURED[std, solver, steps]
    samples = solvers.sample_ring(solvers.exact(ring.score), steps, solver)
    # Sampling noise moves the numbers by less than 0.01 and 0.002.
    assert ring.total_variation(samples) == pytest.approx(variation, abs=0.02)
    assert ring.far(samples) == pytest.approx(far, abs=0.005)


@pytest.mark.parametrize(
    ("solver", "steps", "ratios"),
    [
        ("multistep", 15, [1.03, 1.02, 1.02, 1.02, 1.02, 1.02]),
        ("multistep", 8, [0.97, 0.99, 1.01, 1.02, 1.03, 1.04]),
        ("singlestep", 15, [0.41, 0.49, 0.67, 0.79, 0.89, 0.95]),
    ],
)
def test_spread_of_one_gaussian(solver, steps, ratios):
    found = [solvers.spread(std, steps, solver) for std in solvers.GAUSSIANS]
    np.testing.assert_allclose(found, ratios, atol=0.01)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_guided_ring(scale):
    target = solvers.ring(0.085).tilted(solvers.BETA * scale)
    floor = target.total_variation(target.draw(solvers.SAMPLES, 1))
    exact, scaled = (
        solvers.sample_ring(solvers.guided_ring(0.085, scale, exactly), 15, "multistep")
        for exactly in (True, False)
    )
    # The energy of w β Q is as accurate as the plain ring; w times that of β Q only for w = 1.
    assert target.total_variation(exact) < floor + 0.04
    np.testing.assert_allclose(exact.mean(0), target.weights @ target.centres, atol=0.01)
    if scale == 1:
        np.testing.assert_array_equal(scaled, exact)
    else:
        assert target.total_variation(scaled) > floor + 0.12
