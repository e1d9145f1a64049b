"""Pre-training: many updates of one phase in one `lax.scan`, all seeds together."""

import functools
import operator
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from stratdiff.agents.base import Metrics
from stratdiff.cpu import over_seeds
from stratdiff.data.device import DeviceData
from stratdiff.phases import Phase
from stratdiff.training.state import Accumulator, Setup, TrainState, empty_accumulator, stream

STORE_ROWS = 1024


def trained_part(state: TrainState, phase: Phase) -> PyTree:
    """The part of the state that the phase trains."""
    return operator.attrgetter(phase.part)(state.learned)


def with_part(state: TrainState, phase: Phase, part: PyTree) -> TrainState:
    """The state with another such part."""
    return eqx.tree_at(lambda s: operator.attrgetter(phase.part)(s.learned), state, part)


@functools.partial(jax.jit, static_argnums=(0, 1, 6), donate_argnums=2)
def run_steps(
    setup: Setup,
    name: str,
    state: TrainState,
    data: DeviceData,
    stored: PyTree,
    first: Int[Array, ""],
    length: int,
) -> tuple[TrainState, Accumulator]:
    """`length` steps of the phase `name` from step `first` on, in one scan.

    `stored` is what the score keeps with each row of D_off, leading axes seeds and rows.
    """
    phase = next(p for p in setup.algorithm.phases() if p.name == name)
    assert isinstance(phase, Phase)
    steps = first + jnp.arange(length)

    def one_seed(state: TrainState, stored: PyTree) -> tuple[TrainState, Accumulator]:
        def one(state: TrainState, step: Int[Array, ""]) -> tuple[TrainState, Metrics]:
            key = stream(state.seed, name, step)
            part, metrics = phase.update(state.learned, data, stored, key)
            return with_part(state, phase, part), metrics

        state, metrics = jax.lax.scan(one, state, steps)
        return state, empty_accumulator(tuple(metrics)).add(metrics, steps)

    # Set aside, as turns copy what they are given: it is large, and no offline phase reads it.
    replay = state.replay
    state = eqx.tree_at(lambda s: s.replay, state, None)
    state, total = over_seeds(one_seed, state, stored)
    return eqx.tree_at(lambda s: s.replay, state, replay, is_leaf=lambda x: x is None), total


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def store_rows(
    setup: Setup,
    name: str,
    state: TrainState,
    data: DeviceData,
    stored: PyTree,
    first: Int[Array, ""],
) -> PyTree:
    """`stored` with the rows of `STORE_ROWS` transitions from number `first` on filled in."""

    def rows(state: TrainState, whole: PyTree) -> PyTree:
        index = jnp.minimum(first + jnp.arange(STORE_ROWS), len(data) - 1)
        keys = jax.vmap(lambda i: stream(state.seed, name, i))(index)
        obs = data.states(data.rows[index])
        new = setup.algorithm.score.store(state.learned.score, obs, keys)
        return jax.tree.map(lambda w, n: w.at[index].set(n), whole, new)

    return jax.vmap(rows)(state, stored)


def store_all(
    setup: Setup, name: str, state: TrainState, data: DeviceData
) -> Iterator[tuple[int, PyTree]]:
    """What the score stores with every transition of D_off, as (rows done, arrays), step by step.

    The random numbers of a transition depend on the seed and its number alone.
    """
    seeds = len(state.seed)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state.learned)
    stored = jax.tree.map(
        lambda x: jnp.zeros((seeds, len(data), *x.shape), x.dtype), setup.stored_shapes(one)
    )
    for first in range(0, len(data), STORE_ROWS):
        stored = store_rows(setup, name, state, data, stored, jnp.asarray(first))
        jax.block_until_ready(stored)
        yield min(first + STORE_ROWS, len(data)), stored
