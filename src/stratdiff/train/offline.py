"""The offline phases: many updates in one `lax.scan`, all seeds together.

Each function takes and returns the whole training state and is compiled once per chunk length.
"""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stratdiff.agents.base import Metrics
from stratdiff.networks import over_seeds
from stratdiff.train.state import (
    Accumulator,
    DeviceData,
    Learner,
    Stream,
    TrainState,
    empty_accumulator,
    stream,
)

Support = Float[Array, "n support act"]
Step = Callable[
    [Learner, TrainState, DeviceData, Support | None, Int[Array, ""]], tuple[TrainState, Metrics]
]


def base_step(
    learner: Learner,
    state: TrainState,
    data: DeviceData,
    support: Support | None,
    step: Int[Array, ""],
) -> tuple[TrainState, Metrics]:
    """One update of the base algorithm on D_off, every row conservative."""
    batch_key, key = jax.random.split(stream(state.seed, Stream.BASE, step))
    size = learner.config.batch_size
    batch = data.take(jax.random.randint(batch_key, (size,), 0, len(data.rows)))
    agent, metrics = learner.agent.update(state.agent, batch, key, size)
    return eqx.tree_at(lambda s: s.agent, state, agent), metrics


def behaviour_step(
    learner: Learner,
    state: TrainState,
    data: DeviceData,
    support: Support | None,
    step: Int[Array, ""],
) -> tuple[TrainState, Metrics]:
    """One update of the behaviour model on D_off."""
    assert state.behaviour is not None
    batch_key, key = jax.random.split(stream(state.seed, Stream.BEHAVIOUR, step))
    size = learner.config.behaviour.batch_size
    row = data.rows[jax.random.randint(batch_key, (size,), 0, len(data.rows))]
    behaviour, metrics = learner.behaviour.update(
        state.behaviour, data.states(row), data.action[row], key
    )
    return eqx.tree_at(lambda s: s.behaviour, state, behaviour), metrics


def energy_step(
    learner: Learner,
    state: TrainState,
    data: DeviceData,
    support: Support | None,
    step: Int[Array, ""],
) -> tuple[TrainState, Metrics]:
    """One update of the energy model on states of D_off and their support actions."""
    assert state.energy is not None and support is not None
    batch_key, key = jax.random.split(stream(state.seed, Stream.ENERGY, step))
    size = learner.config.energy.batch_size
    index = jax.random.randint(batch_key, (size,), 0, len(data.rows))
    obs, actions = data.states(data.rows[index]), support[index]
    q = learner.support_q(state.agent, obs, actions)
    energy, metrics = learner.energy.update(state.energy, obs, actions, q, key)
    return eqx.tree_at(lambda s: s.energy, state, energy), metrics


@functools.partial(jax.jit, static_argnums=(0, 1, 6), donate_argnums=2)
def run_steps(
    one: Step,
    learner: Learner,
    state: TrainState,
    data: DeviceData,
    support: Float[Array, "seeds n support act"] | None,
    first: Int[Array, ""],
    length: int,
) -> tuple[TrainState, Accumulator]:
    """`length` steps of one phase from step `first` on, in one scan."""
    steps = first + jnp.arange(length)

    def one_seed(state: TrainState, support: Support | None) -> tuple[TrainState, Accumulator]:
        state, metrics = jax.lax.scan(
            lambda s, step: one(learner, s, data, support, step), state, steps
        )
        return state, empty_accumulator(tuple(metrics)).add(metrics, steps)

    # Set aside, as turns copy what they are given: it is large, and no offline phase reads it.
    replay = state.replay
    state = eqx.tree_at(lambda s: s.replay, state, None)
    state, total = over_seeds(one_seed, state, support)
    return eqx.tree_at(lambda s: s.replay, state, replay, is_leaf=lambda x: x is None), total


SUPPORT_ROWS = 1024


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def fill_support(
    learner: Learner,
    state: TrainState,
    data: DeviceData,
    support: Float[Array, "seeds n support act"],
    first: Int[Array, ""],
) -> Float[Array, "seeds n support act"]:
    """Draw the support actions of `SUPPORT_ROWS` transitions from index `first` on.

    Each transition's noise depends on the seed and its index alone.
    """

    def rows(state: TrainState, whole: Support) -> Support:
        assert state.behaviour is not None
        index = jnp.minimum(first + jnp.arange(SUPPORT_ROWS), len(data.rows) - 1)
        keys = jax.vmap(lambda i: stream(state.seed, Stream.SUPPORT, i))(index)
        new = learner.behaviour.support(state.behaviour, data.states(data.rows[index]), keys)
        return whole.at[index].set(new)

    return jax.vmap(rows)(state, support)
