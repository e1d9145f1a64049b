"""StratDiff's contribution on one page: score a batch, split it, watch the split (METHOD 4-5).

A low alignment score means offline-like: the action is near what the energy-guided behaviour
policy π_0(·|s) ∝ μ(·|s) exp(w β Q̄) would do.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Metrics = dict[str, Float[Array, ""]]

# Standard deviation of the Gaussians around a and â. The order of a batch does not depend on it.
GUIDED_STD = 0.1
# Percentiles of the scores of each origin that are reported.
QUANTILES = (10, 25, 50, 75, 90)
# Kernel width of the support density at least this: closer actions are one action.
MIN_SUPPORT_STD = 0.05


def guided_alignment(
    action: Float[Array, "*batch act"], guided_action: Float[Array, "*batch act"]
) -> Float[Array, "*batch"]:
    """KL between Gaussians of variance σ_a² I around a and around â: ‖a - â‖² / (2σ_a²)."""
    return jnp.square(action - guided_action).sum(-1) / (2 * GUIDED_STD**2)


def support_std(support: Float[Array, "batch support act"]) -> Float[Array, ""]:
    """Kernel width σ_a from the spread of the support, one for the whole batch.

    Scott's rule: the root-mean-square standard deviation of the support actions within a state
    (over states and dimensions) times M^(-1/(A+4)), at least `MIN_SUPPORT_STD`.
    """
    m, dim = support.shape[-2:]
    spread = jnp.sqrt(support.var(axis=-2).mean())
    return jnp.maximum(spread * m ** (-1 / (dim + 4)), MIN_SUPPORT_STD)


def support_alignment(
    action: Float[Array, "batch act"],
    support: Float[Array, "batch support act"],
    weighted_q: Float[Array, "batch support"],
) -> Float[Array, " batch"]:
    """-log Σ_m softmax_m(w β Q̄) N(a; a^m, σ_a² I), the support actions a sample of π_0.

    `weighted_q` is w β Q̄(s, a^m), in reference reward units.
    """
    std = support_std(support)
    distance = jnp.square(action[:, None] - support).sum(-1)
    normalizer = action.shape[-1] * (jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi))
    log_kernel = -distance / (2 * std**2) - normalizer
    return -jax.nn.logsumexp(jax.nn.log_softmax(weighted_q) + log_kernel, axis=-1)


def offline_like_count(rho: float, batch: int) -> int:
    """k = round(ρB), half rounded up."""
    return int(rho * batch + 0.5 + 1e-9)  # 0.29 · 50 is a little below 14.5 in floating point


def split(alignment: Float[Array, " batch"], k: int) -> Int[Array, " batch"]:
    """Permutation that puts the k rows of lowest alignment (the offline-like ones) first.

    Ties go by row (stable sort). Within a stratum rows keep their order, so k = B and k = 0 leave
    the batch as it is: ρ = 1 reproduces the base algorithm bit for bit.
    """
    batch = len(alignment)
    order = jnp.argsort(alignment, stable=True)
    online_like = jnp.zeros(batch, bool).at[order[k:]].set(True)
    return jnp.argsort(online_like, stable=True)


def diagnostics(
    alignment: Float[Array, " batch"], online: Bool[Array, " batch"], k: int
) -> Metrics:
    """How the split of a batch relates to where its rows came from (METHOD 5).

    `online` marks rows from D_on. Quantities of an origin with no rows are NaN.
    """
    batch = len(alignment)
    offline_like = jnp.ones(batch, bool).at[split(alignment, k)[k:]].set(False)
    exchanged = (offline_like == online).sum()
    n_online = online.sum()
    pair = online[:, None] & ~online[None, :]
    above = alignment[:, None] > alignment[None, :]
    equal = alignment[:, None] == alignment[None, :]
    auc = (pair * (above + 0.5 * equal)).sum() / (n_online * (batch - n_online))
    ordered = jnp.sort(alignment)
    out = {
        "exchange_count": exchanged.astype(float),
        "exchange_fraction": exchanged / batch,
        "alignment_auc": auc,
        "alignment_threshold": ordered[k - 1] if k > 0 else jnp.full((), -jnp.inf),
    }
    for origin, rows in (("offline", ~online), ("online", online)):
        count = rows.sum()
        mean = (alignment * rows).sum() / count
        spread = jnp.sqrt((jnp.square(alignment - mean) * rows).sum() / count)
        out[f"alignment_mean_{origin}"] = mean
        out[f"alignment_std_{origin}"] = spread
        ascending = jnp.sort(jnp.where(rows, alignment, jnp.inf))
        for percent in QUANTILES:
            rank = jnp.round(percent / 100 * (count - 1)).astype(int)
            value = jnp.where(count > 0, ascending[jnp.maximum(rank, 0)], jnp.nan)
            out[f"alignment_q{percent}_{origin}"] = value
    return out
