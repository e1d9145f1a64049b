"""The training state: random streams, sums of metrics, what is stored with a transition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from stratdiff.tasks import find_task
from stratdiff.training.setup import make_setup
from stratdiff.training.state import _PURPOSES, empty_accumulator, stream


def test_a_loss_that_is_not_finite_is_placed_at_its_step():
    total = empty_accumulator(("critic_loss", "q_mean"))
    for step, loss in ((5, 1.0), (6, float("nan")), (7, float("inf"))):
        metrics = {"critic_loss": jnp.asarray(loss), "q_mean": jnp.asarray(1.0)}
        total = total.add(metrics, jnp.asarray(step))
    assert int(total.bad_step["critic_loss"]) == 6
    assert int(total.bad_step["q_mean"]) == -1


def test_several_steps_are_added_as_one_by_one():
    losses = [2.0, float("inf"), 3.0]
    together, one_by_one = empty_accumulator(("loss",)), empty_accumulator(("loss",))
    together = together.add({"loss": jnp.asarray(losses)}, jnp.arange(4, 7))
    for step, loss in enumerate(losses, 4):
        one_by_one = one_by_one.add({"loss": jnp.asarray(loss)}, jnp.asarray(step))
    for total in (together, one_by_one):
        assert int(total.count) == 3
        assert int(total.bad_step["loss"]) == 5
    finite = empty_accumulator(("loss",)).add({"loss": jnp.asarray([2.0, 3.0])}, jnp.arange(2))
    assert float(finite.sums["loss"]) == 5.0


def test_streams_of_purposes_steps_and_seeds_are_different():
    names = [*_PURPOSES, "a phase of one's own", "another"]
    keys = {
        tuple(np.asarray(jax.random.key_data(stream(jnp.asarray(seed), name, step))))
        for seed, name, step in itertools.product((0, 1), names, (0, 1))
    }
    assert len(keys) == 4 * len(names)


def test_what_is_stored_with_a_transition_is_the_score_s(tiny):
    for options, shape in (
        ({}, (1, 120, 4, 2)),
        ({"score": "support", "online_steps": 7}, (1, 7, 4, 2)),
        ({"score": "random"}, None),
    ):
        config = tiny(**options)
        made, _ = make_setup(config, find_task(config.env), 1.0)
        leaves = jax.tree.leaves(made.init((0,)).replay.stored)
        assert [leaf.shape for leaf in leaves] == ([shape] if shape else [])
