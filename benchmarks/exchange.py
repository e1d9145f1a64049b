"""Does a split put rows on the side that they came from? `python -m benchmarks.exchange`.

Everything is known exactly here: a behaviour policy of three Gaussian modes in six dimensions, a
linear Q, the energy-guided policy π_0 ∝ μ exp(w β Q), and three online policies: `near` (the best
mode, moved half of the way that π_0 is), `narrow` (the same with 0.6 of the deviation, as a trained
policy beside replay data) and `far` (beyond π_0). Samples of μ and π_0 are exact, so what the
scores and splits do wrong is theirs and no network's.

The table gives, for every score: the AUC of "came from D_on", the share of rows on the side of
their origin with the fixed rule (ρ = 0.5) and with the exchange rule at K = 1, and of the rows
that K = 3, 10 and 100 exchange the share whose exchange the exact likelihood ratio π_on/μ agrees
with. `--figure FILE` draws the scores by origin.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from stratdiff.scores.guided import Guided, GuidedOptions, guided_alignment
from stratdiff.scores.origin import Origin
from stratdiff.scores.support import support_alignment
from stratdiff.splits import Exchange, ExchangeOptions, Ratio, RatioOptions, auc

DIM, HALF, SUPPORT = 6, 128, 16
DEVIATION, DISTANCE, SLOPE = 0.2, 0.9, 0.3
SCALE, BETA = 3.0, 3.0
ODDS = (1.0, 3.0, 10.0, 100.0)
SCORES = ("guided", "support", "likelihood")

CENTRES = np.eye(3, DIM) * DISTANCE / 2**0.5
CENTRES -= CENTRES.mean(0)
UPHILL = CENTRES[0] / np.linalg.norm(CENTRES[0])
# By completing the square π_0 moves every mode of μ by w β σ² ∇Q and weighs it by exp(w β Q).
SHIFT = SCALE * BETA * SLOPE * DEVIATION**2 * UPHILL
GUIDED_WEIGHTS = np.exp(SCALE * BETA * SLOPE * CENTRES @ UPHILL)
GUIDED_WEIGHTS /= GUIDED_WEIGHTS.sum()


class Policy(NamedTuple):
    """An online policy, a Gaussian."""

    mean: np.ndarray
    deviation: float


ONLINE = {
    "near": Policy(CENTRES[0] + SHIFT / 2, DEVIATION),
    "narrow": Policy(CENTRES[0] + SHIFT / 2, 0.6 * DEVIATION),
    "far": Policy(CENTRES[0] + SHIFT + 4 * DEVIATION * UPHILL, DEVIATION),
}


def mixture(rng: np.random.Generator, shape: tuple[int, ...], weights: Any, shift: Any) -> Any:
    """Exact samples of μ, or of π_0."""
    mode = rng.choice(3, size=shape, p=weights)
    return CENTRES[mode] + shift + DEVIATION * rng.normal(size=(*shape, DIM))


def log_gaussian(action: Any, mean: Any, deviation: float) -> Any:
    """Log-density of N(mean, deviation² I)."""
    squared = np.square(action - mean).sum(-1) / deviation**2
    return -0.5 * squared - DIM * np.log(deviation * np.sqrt(2 * np.pi))


def log_behaviour(action: Any) -> Any:
    """log μ(a)."""
    return np.logaddexp.reduce(log_gaussian(action[:, None], CENTRES, DEVIATION), 1) - np.log(3)


@jax.jit
def all_scores(
    action: Float[Array, "batch act"],
    guided_action: Float[Array, "batch act"],
    support: Float[Array, "batch support act"],
    log_policy: Float[Array, " batch"],
) -> dict[str, Float[Array, " batch"]]:
    """The package's scores, with exact samples in the place of the diffusion model's."""
    weighted_q = SCALE * BETA * SLOPE * support @ UPHILL.astype(np.float32)
    return {
        "guided": guided_alignment(action, guided_action),
        "support": support_alignment(action, support, weighted_q),
        "likelihood": log_policy + support_alignment(action, support, jnp.zeros_like(weighted_q)),
    }


def rules(name: str) -> dict[str, Any]:
    """The split rules of a score."""
    score = (
        Guided(GuidedOptions(), 1, DIM) if name == "guided" else Origin(Origin.options(), 1, DIM)
    )
    found = {f"K={odds:g}": Exchange(ExchangeOptions(odds), score) for odds in ODDS}
    return {"ratio": Ratio(RatioOptions(0.5), score)} | found


@functools.partial(jax.jit, static_argnums=0)
def split(
    name: str, states: dict[str, Any], score: Float[Array, " batch"], online: Bool[Array, " batch"]
) -> tuple[dict[str, Any], dict[str, Bool[Array, " batch"]]]:
    """(states, which rows are offline-like) of every rule."""
    out = {}
    for rule, call in rules(name).items():
        states[rule], rows, _ = call(states[rule], score, online)
        first = jnp.arange(len(score)) < rows.conservative
        out[rule] = jnp.zeros(len(score), bool).at[rows.order].set(first)
    return states, out


def simulate(
    kind: str, batches: int, seed: int = 0
) -> tuple[dict[str, dict[str, float]], dict[str, tuple[Any, Any, Any]]]:
    """(figures of every score, all its scores with origins and sides by K = 1) of one policy."""
    rng, policy, online = np.random.default_rng(seed), ONLINE[kind], np.arange(2 * HALF) >= HALF
    states = {name: {rule: r.init() for rule, r in rules(name).items()} for name in SCORES}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in SCORES}
    seen: dict[str, list[Any]] = {name: [] for name in SCORES}
    for _ in range(batches):
        behaved = mixture(rng, (HALF,), None, 0.0)
        acted = policy.mean + policy.deviation * rng.normal(size=(HALF, DIM))
        action = np.concatenate([behaved, acted])
        log_policy = log_gaussian(action, policy.mean, policy.deviation)
        ratio = log_policy - log_behaviour(action)
        guided_action = mixture(rng, (2 * HALF,), GUIDED_WEIGHTS, SHIFT)
        support = mixture(rng, (2 * HALF, SUPPORT), None, 0.0)
        arrays = (np.float32(x) for x in (action, guided_action, support, log_policy))
        for name, score in all_scores(*arrays).items():
            figures = found[name]
            states[name], sides = split(name, states[name], score, online)
            figures.setdefault("AUC", []).append(float(auc(score, jnp.asarray(online))))
            for rule, offline_like in sides.items():
                moved = np.asarray(offline_like) == online
                figures.setdefault(rule, []).append(float((~moved).mean()))
                if rule != "ratio":
                    figures.setdefault(f"{rule} exchanged", []).append(float(moved.mean()))
                    agrees = np.where(online, ratio < 0, ratio > 0)[moved]
                    figures.setdefault(f"{rule} agrees", []).extend(agrees)
            seen[name].append((np.asarray(score), np.asarray(sides["K=1"])))
    means = {n: {k: float(np.mean(v)) if v else float("nan") for k, v in f.items()}
             for n, f in found.items()}  # fmt: skip
    joined = {n: (np.concatenate([s for s, _ in v]), np.tile(online, batches),
                  np.concatenate([o for _, o in v])) for n, v in seen.items()}  # fmt: skip
    return means, joined


def draw(path: str, batches: int) -> None:
    """Scores by origin, the fixed rule's line, and below the rows that K = 1 exchanges."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 3, figsize=(10, 7.2))
    for row, kind in zip(axes, ONLINE, strict=True):
        means, seen = simulate(kind, batches)
        for axis, name in zip(row, SCORES, strict=True):
            score, online, offline_like = seen[name]
            value = np.log10(np.maximum(score, 1e-4)) if name == "guided" else score
            low, high = np.percentile(value, [0.5, 99.5])
            bins = np.linspace(low, high, 50)
            for origin, color, label in ((False, "#555555", "D_off"), (True, "#0072B2", "D_on")):
                axis.hist(value[online == origin], bins, alpha=0.55, color=color, label=label)
            threshold = np.median(value)
            axis.axvline(threshold, color="#D55E00", linestyle="--", linewidth=1)
            top = axis.get_ylim()[1]
            for origin, color in ((False, "#555555"), (True, "#0072B2")):
                moved = value[(online == origin) & (offline_like == origin)][:200]
                x, y = np.clip(moved, low, high), np.full(len(moved), -0.06 - 0.06 * origin)
                axis.plot(x, y * top, "|", color=color, markersize=5)
            f = means[name]
            axis.set_title(
                f"{kind}, {name}: {f['ratio']:.2f} (ρ = 0.5), {f['K=1']:.2f} (K = 1)", fontsize=9
            )
            axis.set_yticks([])
            axis.spines[["top", "right", "left"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=8)
    for axis, label in zip(axes[-1], ("log10 score", "score", "score"), strict=True):
        axis.set_xlabel(label)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--figure", default="", help="draw the scores by origin into this file")
    parser.add_argument("--json", default="", help="write the figures into this file")
    args = parser.parse_args()
    table = {kind: simulate(kind, args.batches)[0] for kind in ONLINE}
    print("| online policy | score | AUC | ρ = 0.5 | K = 1 | exchanged at K = 3, 10, 100 | agree |")
    print("|---|---|---|---|---|---|---|")
    for kind, scores in table.items():
        for name, f in scores.items():
            many = " / ".join(f"{100 * f[f'K={k:g} exchanged']:.1f} %" for k in ODDS[1:])
            agree = " / ".join(f"{f[f'K={k:g} agrees']:.2f}" for k in ODDS[1:])
            print(f"| {kind} | {name} | {f['AUC']:.2f} | {f['ratio']:.2f} | {f['K=1']:.2f} "
                  f"| {many} | {agree} |")  # fmt: skip
    if args.json:
        Path(args.json).write_text(json.dumps(table, indent=1))
    if args.figure:
        draw(args.figure, args.batches)


if __name__ == "__main__":
    main()
