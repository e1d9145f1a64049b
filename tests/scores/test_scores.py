"""What every score has, and the two that train nothing."""

import jax
import numpy as np
import pytest
from scipy import stats
from scored import AGENT, BATCH, make_batch

from stratdiff.scores import SCORES, Score
from stratdiff.scores.none import NoScore
from stratdiff.scores.random import Random


@pytest.mark.parametrize("name", SCORES.names())
def test_every_score_has_what_a_score_needs(name):
    kind = SCORES.find(name)
    score = kind(kind.options(), 3, 2)
    assert isinstance(score, Score)
    assert score.name == name
    state = score.init(jax.random.split(jax.random.key(0), 2))
    assert all(hasattr(state, part) for part in score.frozen)


@pytest.mark.parametrize("kind", [NoScore, Random])
def test_nothing_is_trained_or_stored(kind):
    score, batch = kind(kind.options(), 3, 2), make_batch(())
    keys = jax.random.split(jax.random.key(0), BATCH)
    assert score.init(keys[:2]) == score.phases() == ()
    assert score.store((), batch.transitions.obs, keys) == ()
    assert score.update((), AGENT, batch, keys[0]) == ((), {})


def test_without_a_score_all_rows_are_alike():
    score = NoScore(NoScore.options(), 3, 2)
    found = score.score((), AGENT, make_batch(()), jax.random.key(0))
    np.testing.assert_array_equal(found, np.zeros(BATCH))


def test_random_scores_are_uniform_and_new_at_every_update():
    score, batch = Random(Random.options(), 3, 2), make_batch(())
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = np.asarray(jax.vmap(lambda key: score.score((), AGENT, batch, key))(keys))
    assert drawn.shape == (2000, BATCH)
    # A Kolmogorov-Smirnov test of 12 000 numbers, a chance in 10 000 to fail.
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 1e-4
    # Of all orders of the first three rows, each about as often: 1/6, standard error 0.008.
    orders = np.argsort(drawn[:, :3], axis=1) @ [9, 3, 1]
    np.testing.assert_allclose(np.unique(orders, return_counts=True)[1] / 2000, 1 / 6, atol=0.04)
