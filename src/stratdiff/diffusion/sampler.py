"""DPM-Solver++ of second order: draw actions from a score function in a few steps.

Lu et al. 2022 (arXiv 2211.01095), data prediction, multistep (2M, algorithm 2) or singlestep (2S,
algorithm 1); see docs/method.md, section 3.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stratdiff.diffusion.sde import VPSDE

Solver = Literal["multistep", "singlestep"]
Score = Callable[[Float[Array, "*batch act"], Float[Array, ""]], Float[Array, "*batch act"]]


def guided(
    score: Score, energy: Callable[..., Float[Array, "*batch"]], scale: float | Float[Array, ""]
) -> Score:
    """The score of π_t: ∇ log π_t(a_t) = score(a_t, t) + w ∇_a f(a_t, t).

    `energy(a_t, t)` gives f for each action of the batch; `scale` is the guidance scale w.
    """

    def guided_score(
        noisy: Float[Array, "*batch act"], t: Float[Array, ""]
    ) -> Float[Array, "*batch act"]:
        gradient = jax.grad(lambda a: energy(a, t).sum())(noisy)
        return score(noisy, t) + scale * gradient

    return guided_score


def coefficients(solver: Solver, steps: int, sde: VPSDE) -> Float[np.ndarray, "6 steps"]:
    """Of every evaluation i: t_i, α_i, σ_i, c_i, σ_{i+1}/σ_i and α_{i+1} (1 - exp(-h_i)).

    With h_i = λ_{i+1} - λ_i it takes x_i to
    x_{i+1} = σ_{i+1}/σ_i x_i + α_{i+1} (1 - exp(-h_i)) (x0_i + c_i (x0_i - x0_{i-1})).
    """
    lam, correction = sde.lam(np.linspace(1.0, sde.t_min, steps + 1)), np.zeros(steps)
    if solver == "multistep":
        lam = np.linspace(lam[0], lam[-1], steps + 1)
        correction[1:] = 0.5  # h_i / (2 h_{i-1}); all h are equal
    h = np.diff(lam)
    if solver == "singlestep":
        # A step of second order is two: one of first order to its middle, and one that takes the
        # middle to where the whole step ends. The last one or two steps are of first order.
        second = np.arange(1, steps - 1, 2)
        whole = h[second - 1] + h[second]
        share = np.expm1(-whole) / np.expm1(-h[second])
        correction[second] = share * whole / (2 * h[second - 1]) - 1
    alpha, sigma = 1 / np.sqrt(1 + np.exp(-2 * lam)), 1 / np.sqrt(1 + np.exp(2 * lam))
    ends = sigma[1:] / sigma[:-1], -alpha[1:] * np.expm1(-h)
    return np.stack([sde.inverse_lam(lam)[:-1], alpha[:-1], sigma[:-1], correction, *ends])


def dpm_solver(
    score: Score,
    noise: Float[Array, "*batch act"],
    sde: VPSDE,
    steps: int = 15,
    solver: Solver = "multistep",
    clip: bool = True,
) -> Float[Array, "*batch act"]:
    """Integrate the probability-flow ODE from `noise` at t = 1 down to t_min.

    `steps` is the number of evaluations of `score`. `multistep` takes steps uniform in λ;
    `singlestep`, as CEP's code does, evaluates at times uniform in t, which is far less accurate
    at 15 evaluations (docs/fidelity.md). With `clip` every x0 prediction is cut to [-1, 1], the
    range of actions; so is the result.
    """

    def step(
        carry: tuple[Float[Array, "*batch act"], Float[Array, "*batch act"]],
        c: Float[Array, "6"],
    ) -> tuple[tuple[Float[Array, "*batch act"], Float[Array, "*batch act"]], None]:
        x, previous = carry
        t, alpha, sigma, correction, shrink, weight = c
        x0 = (x + sigma**2 * score(x, t)) / alpha
        if clip:
            x0 = jnp.clip(x0, -1.0, 1.0)
        data = x0 + correction * (x0 - previous)
        return (shrink * x + weight * data, x0), None

    each = jnp.asarray(coefficients(solver, steps, sde).T, noise.dtype)
    (x, _), _ = jax.lax.scan(step, (noise, jnp.zeros_like(noise)), each)
    return jnp.clip(x, -1.0, 1.0) if clip else x
