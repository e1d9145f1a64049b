"""What the solvers make of exact scores: eight Gaussians on a ring, single Gaussians, guidance.

`python docs/figures/solvers.py` prints the tables of docs/fidelity.md and draws
docs/images/solvers.png. tests/diffusion/test_solvers.py checks the numbers with the same code.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from stratdiff.diffusion.sampler import Score, Solver, dpm_solver, guided
from stratdiff.diffusion.sde import VPSDE

IMAGE = Path(__file__).parents[1] / "images" / "solvers.png"

ANGLES = 2 * np.pi * np.arange(8) / 8
CENTRES = 0.6 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
STDS, GAUSSIANS = (0.05, 0.085, 0.15), (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
SAMPLES, EDGES, BETA = 20_000, np.linspace(-1, 1, 41), 1.5
SOLVERS: tuple[tuple[Solver, int], ...] = (
    ("multistep", 15),
    ("multistep", 10),
    ("multistep", 8),
    ("singlestep", 15),
)


class Mixture(NamedTuple):
    """Gaussians of one standard deviation."""

    centres: np.ndarray
    std: float
    weights: np.ndarray

    def tilted(self, slope: float) -> "Mixture":
        """Times exp(slope a_0): a linear Q moves every centre by slope std² and changes weights."""
        weights = self.weights * np.exp(slope * self.centres[:, 0])
        move = np.eye(self.centres.shape[1])[0] * slope * self.std**2
        return Mixture(self.centres + move, self.std, weights / weights.sum())

    def noised(self, t: float) -> tuple[np.ndarray, float]:
        """(centres, variance) at time t, by the formulas of docs/method.md, section 1."""
        alpha = np.exp(-(20.0 - 0.1) * t**2 / 4 - 0.1 * t / 2)
        return alpha * self.centres, alpha**2 * self.std**2 + 1 - alpha**2

    def score(self, x: np.ndarray, t: float) -> np.ndarray:
        """∇ log p_t(x) in float64."""
        centres, variance = self.noised(t)
        offset = centres - x[:, None]
        logits = np.log(self.weights) - np.square(offset).sum(-1) / (2 * variance)
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        return (share[..., None] * offset).sum(1) / variance

    def log_density(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """log p_t(x) up to a constant, to be differentiated."""
        log_alpha = -(20.0 - 0.1) * t**2 / 4 - 0.1 * t / 2
        variance = jnp.exp(2 * log_alpha) * self.std**2 - jnp.expm1(2 * log_alpha)
        offset = jnp.exp(log_alpha) * jnp.asarray(self.centres) - x[:, None]
        logits = jnp.log(jnp.asarray(self.weights)) - jnp.square(offset).sum(-1) / (2 * variance)
        return jax.nn.logsumexp(logits, axis=-1)

    def draw(self, n: int, seed: int) -> np.ndarray:
        """Exact samples."""
        rng = np.random.default_rng(seed)
        mode = rng.choice(len(self.weights), n, p=self.weights)
        return self.centres[mode] + self.std * rng.normal(size=(n, self.centres.shape[1]))

    def cells(self) -> np.ndarray:
        """Probability of every cell of the grid, what lies around it included."""
        edges = np.concatenate([[-np.inf], EDGES, [np.inf]])
        below = stats.norm.cdf((edges - self.centres[..., None]) / self.std)
        x, y = np.moveaxis(np.diff(below, axis=-1), 1, 0)
        return np.einsum("k,kx,ky->xy", self.weights, x, y)

    def total_variation(self, samples: np.ndarray) -> float:
        """Half the summed distance between the cells' probabilities and the samples' shares."""
        bins = np.concatenate([[-np.inf], EDGES, [np.inf]])
        x, y = (np.digitize(samples[:, i], bins) - 1 for i in (0, 1))
        shares = np.bincount(x * (len(bins) - 1) + y, minlength=(len(bins) - 1) ** 2)
        return 0.5 * float(np.abs(shares / len(samples) - self.cells().ravel()).sum())

    def far(self, samples: np.ndarray) -> float:
        """Share of the samples beyond 3 standard deviations of every centre."""
        distance = np.square(samples[:, None] - self.centres).sum(-1).min(1)
        return float((distance > 9 * self.std**2).mean())


def ring(std: float) -> Mixture:
    """Eight Gaussians of equal weight."""
    return Mixture(CENTRES, std, np.full(8, 1 / 8))


def exact(score: Callable[[np.ndarray, float], np.ndarray]) -> Score:
    """A score of NumPy arrays as one that the solver can call."""

    def on_host(x: jax.Array, t: jax.Array) -> np.ndarray:
        found = score(np.asarray(x, np.float64), float(t))
        return found.astype(x.dtype)

    return lambda x, t: jax.pure_callback(on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), x, t)


def guided_ring(std: float, scale: float, exactly: bool) -> Score:
    """Guidance by exact energies of Q = a_0: that of w β Q, or w times that of β Q."""
    plain = ring(std)
    target = plain.tilted(BETA * scale if exactly else BETA)

    def energy(x: jax.Array, t: jax.Array) -> jax.Array:
        return target.log_density(x, t) - plain.log_density(x, t)

    return guided(exact(plain.score), energy, 1.0 if exactly else scale)


def sample(score: Score, noise: np.ndarray, steps: int, solver: Solver, clip: bool) -> np.ndarray:
    """Samples as float64."""
    run = jax.jit(lambda z: dpm_solver(score, z, VPSDE(), steps, solver, clip))
    return np.asarray(run(jnp.asarray(noise, jnp.float32)), np.float64)


def sample_ring(score: Score, steps: int, solver: Solver) -> np.ndarray:
    """Samples of a score on the plane, clipped as those of the package."""
    noise = np.random.default_rng(0).normal(size=(SAMPLES, 2))
    return sample(score, noise, steps, solver, True)


def spread(std: float, steps: int, solver: Solver) -> float:
    """Sampled over exact standard deviation of one Gaussian."""
    # Quantiles instead of draws, so that the error is the solver's alone.
    noise = stats.norm.ppf((np.arange(2001) + 0.5) / 2001)[:, None]
    gaussian = Mixture(np.array([[0.2]]), std, np.ones(1))
    return float(sample(exact(gaussian.score), noise, steps, solver, False).std()) / (
        std * float(noise.std())
    )


def main() -> None:
    """Print the tables and draw the picture."""
    figure, axes = plt.subplots(1, 1 + len(SOLVERS), figsize=(13, 3.2), sharex=True, sharey=True)
    print("total variation, share beyond 3 standard deviations; ring of standard deviation", *STDS)
    drawn = {"exact samples": [ring(std).draw(SAMPLES, 1) for std in STDS]}
    for solver, steps in SOLVERS:
        name = f"{solver}, {steps}"
        drawn[name] = [sample_ring(exact(ring(std).score), steps, solver) for std in STDS]
    for axis, (name, found) in zip(axes, drawn.items(), strict=True):
        numbers = [
            (ring(s).total_variation(x), ring(s).far(x)) for s, x in zip(STDS, found, strict=True)
        ]
        print(f"{name}:", "; ".join(f"{tv:.2f}, {far:.1%}" for tv, far in numbers))
        axis.hist2d(found[1][:, 0], found[1][:, 1], bins=(EDGES, EDGES), vmax=180)
        axis.set_title(f"{name}\ntotal variation {numbers[1][0]:.2f}", fontsize=10)
        axis.set(aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    figure.tight_layout()
    figure.savefig(IMAGE, dpi=90)
    print("sampled over exact standard deviation of one Gaussian", *GAUSSIANS)
    for solver, steps in SOLVERS:
        print(f"{solver}, {steps}:", *(f"{spread(std, steps, solver):.2f}" for std in GAUSSIANS))
    for scale in (1.0, 3.0):
        target = ring(STDS[1]).tilted(BETA * scale)
        found = {"exact samples": target.draw(SAMPLES, 1)}
        for guidance in ("scaled", "exact"):
            score = guided_ring(STDS[1], scale, guidance == "exact")
            for solver, steps in SOLVERS:
                found[f"{guidance}, {solver}, {steps}"] = sample_ring(score, steps, solver)
        print(f"guided, standard deviation {STDS[1]}, w = {scale:g}")
        for name, x in found.items():
            print(f"{name}: {target.total_variation(x):.2f}, {target.far(x):.1%}")


if __name__ == "__main__":
    main()
