"""Print the table of docs/fidelity.md: the solver's spread for a Gaussian with its exact score."""

from statistics import NormalDist

import jax.numpy as jnp

from stratdiff.diffusion.sampler import dpm_solver
from stratdiff.diffusion.sde import VPSDE

SDE, MEAN, STDS = VPSDE(), 0.2, (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
# Quantiles instead of draws, so that the error is the solver's alone.
NOISE = jnp.asarray([[NormalDist().inv_cdf((i + 0.5) / 2001)] for i in range(2001)])


def ratio(std, grid, steps):
    """Sampled over exact standard deviation."""

    def score(noisy, t):
        variance = SDE.alpha(t) ** 2 * std**2 + SDE.sigma(t) ** 2
        return -(noisy - SDE.alpha(t) * MEAN) / variance

    sample = dpm_solver(score, NOISE, SDE, steps, clip=False, grid=grid)
    return float(sample.std() / std / NOISE.std())


print("grid", "steps", *STDS, sep="\t")
for grid, steps in (("uniform", 15), ("uniform", 30), ("lambda", 8), ("lambda", 15)):
    print(grid, steps, *(f"{ratio(std, grid, steps):.2f}" for std in STDS), sep="\t")
