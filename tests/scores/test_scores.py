"""What every score has, and the two that train nothing."""

import jax
import numpy as np
import pytest
from scipy import stats
from scored import AGENT, BATCH, make_batch

from stratdiff.scores import SCORES, Score
from stratdiff.scores.none import NoScore
from stratdiff.scores.origin import Origin
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


def test_origins_are_flipped_by_chance_as_often_as_asked():
    batch = make_batch(())
    keys = jax.random.split(jax.random.key(0), 5000)

    def scores(flips):
        score = Origin(Origin.options(flips), 3, 2)
        return np.asarray(jax.vmap(lambda key: score.score((), AGENT, batch, key))(keys))

    origin = np.asarray(batch.online, float)
    assert {*origin} == {0.0, 1.0}
    np.testing.assert_array_equal(scores(0.0), np.tile(origin, (5000, 1)))
    np.testing.assert_array_equal(scores(1.0), np.tile(1 - origin, (5000, 1)))
    flipped = scores(0.3) != origin
    # Each row as often, standard error 0.0065, and rows independently of each other.
    np.testing.assert_allclose(flipped.mean(0), 0.3, atol=0.03)
    np.testing.assert_allclose(np.cov(flipped.T), 0.21 * np.eye(BATCH), atol=0.02)


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
