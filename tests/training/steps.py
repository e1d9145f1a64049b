"""Online steps without a run: made-up transitions and a state that was hardly trained."""

import jax
import numpy as np

from stratdiff.data.batch import Transition
from stratdiff.data.device import to_device
from stratdiff.data.sources import load_dataset
from stratdiff.phases import StorePhase
from stratdiff.tasks import find_task
from stratdiff.training import online, pretrain
from stratdiff.training.setup import make_setup, reward_scale


def setup(config, seeds=(0,)):
    """(setup, fresh state, D_off on the device, what the score stores with its rows)."""
    dataset = load_dataset(config.dataset)
    made, units = make_setup(config, find_task(config.env), reward_scale(config, dataset))
    agent = made.algorithm.agent
    data = to_device(dataset, units.scale, units.shift, agent.discount, False)
    state = made.init(seeds)
    stored = ()
    for phase in made.algorithm.phases():
        if isinstance(phase, StorePhase):
            *_, (_, stored) = pretrain.store_all(made, phase.name, state, data)
    return made, state, data, stored


def transition(rng, seeds=1):
    draw = rng.normal(size=(seeds, 2)).astype(np.float32)
    return Transition(
        obs=draw,
        action=rng.uniform(-1, 1, (seeds, 2)).astype(np.float32),
        reward=rng.normal(size=seeds).astype(np.float32),
        next_obs=draw + np.float32(0.1),
        terminal=np.zeros(seeds, bool),
        mc_return=np.full(seeds, -np.inf, np.float32),
    )


def made_up(step, rows=(0,)):
    """The transition of a step, of these of three seeds."""
    return jax.tree.map(lambda x: x[[*rows]], transition(np.random.default_rng(step), 3))


def run(config, seeds=(0,), steps=40, rows=None):
    """(setup, state, sums of metrics) after `steps` online steps on made-up transitions."""
    made, state, data, stored = setup(config, seeds)
    loop = online.Loop(made, state, data, stored)
    for step in range(steps):
        new = made_up(step, rows or seeds)
        loop.step(new, new.next_obs, step)
    state = jax.tree.map(np.asarray, loop.state)
    return made, state, jax.tree.map(np.asarray, loop.take_total())


def same(a, b):
    """Whether two trees are equal to the bit."""
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
