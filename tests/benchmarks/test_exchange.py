"""The exchange rule where everything is known: the behaviour, π_0 and the online policies."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import exchange

# (fixed rule, exchange at K = 1), by an independent implementation of the same kind of simulation,
# whose sizes are not known; this one differs from it by up to 0.03.
KNOWN = {
    ("near", "guided"): (0.33, 0.65),
    ("narrow", "guided"): (0.27, 0.73),
    ("near", "support"): (0.33, 0.67),
    ("narrow", "support"): (0.19, 0.79),
}


@pytest.fixture(scope="module")
def found():
    """Standard error of an accuracy over 24 batches: 0.006."""
    return {kind: exchange.simulate(kind, 24)[0] for kind in exchange.ONLINE}


def test_label_accuracies(found):
    for (kind, score), (fixed, exchanged) in KNOWN.items():
        figures = found[kind][score]
        assert figures["ratio"] == pytest.approx(fixed, abs=0.05), (kind, score)
        assert figures["K=1"] == pytest.approx(exchanged, abs=0.05), (kind, score)
    # Where the fixed rule is right, the exchange rule loses next to nothing.
    for score in exchange.SCORES:
        assert found["far"][score]["K=1"] > found["far"][score]["ratio"] - 0.03


def test_the_likelihood_ratio_tells_most(found):
    for kind in exchange.ONLINE:
        assert found[kind]["likelihood"]["AUC"] > 0.8
        assert found[kind]["likelihood"]["AUC"] > found[kind]["support"]["AUC"]
    # An online policy that is narrower than the behaviour scores low: the fixed rule turns round.
    assert found["narrow"]["support"]["AUC"] < 0.2


def test_exchanges_become_fewer_with_the_odds_and_those_by_likelihood_are_right(found):
    for kind, scores in found.items():
        for score, figures in scores.items():
            shares = [figures[f"K={k:g} exchanged"] for k in exchange.ODDS]
            assert shares == sorted(shares, reverse=True), (kind, score)
    for kind in ("near", "narrow"):
        assert found[kind]["likelihood"]["K=3 agrees"] > 0.8


def test_the_guided_policy_is_the_behaviour_policy_reweighted():
    # Samples of μ, weighed by exp(w β Q), have the mean of π_0 (self-normalised, 0.5 M samples).
    rng = np.random.default_rng(0)
    action = exchange.mixture(rng, (500_000,), None, 0.0)
    weight = np.exp(exchange.SCALE * exchange.BETA * exchange.SLOPE * action @ exchange.UPHILL)
    mean = (weight[:, None] * action).sum(0) / weight.sum()
    exact = exchange.mixture(rng, (500_000,), exchange.GUIDED_WEIGHTS, exchange.SHIFT).mean(0)
    np.testing.assert_allclose(mean, exact, atol=0.01)
    point = action[:5]
    density = sum(
        stats.multivariate_normal(c, exchange.DEVIATION**2).pdf(point) for c in exchange.CENTRES
    )
    np.testing.assert_allclose(exchange.log_behaviour(point), np.log(density / 3), rtol=1e-6)
