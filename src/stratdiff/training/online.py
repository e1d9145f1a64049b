"""One environment step of the online phase, as one dispatch: store, learn, act."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Shaped

from stratdiff.agents.base import Metrics
from stratdiff.algorithm import Keys
from stratdiff.data.batch import Batch, Transition
from stratdiff.data.device import DeviceData
from stratdiff.training.dispatch import Carried
from stratdiff.training.state import Accumulator, Setup, TrainState, empty_accumulator, stream


def sample_batch(
    setup: Setup, state: TrainState, data: DeviceData, stored: PyTree, update: Int[Array, ""]
) -> Batch:
    """Rows of D_off, then rows of D_on once it holds `setup.warmup` transitions.

    With `setup.offline_rows` None, rows of both in any order.
    """
    size = setup.batch_size
    offline_key, online_key = jax.random.split(stream(state.seed, "batch", update))
    index = data.sample_index(offline_key, size)
    row = jax.random.randint(online_key, (size,), 0, jnp.maximum(state.replay.size, 1))
    warm = state.replay.size >= setup.warmup
    if setup.offline_rows is None:
        share = len(data) / (len(data) + state.replay.size)
        of_off = jax.random.uniform(jax.random.fold_in(online_key, 2), (size,)) < share
    else:
        first, last = setup.offline_rows
        progress = update / (setup.capacity * setup.utd)
        rows = first if first == last else jnp.round(first + (last - first) * progress)
        of_off = jnp.arange(size) < rows
    online = warm & ~of_off

    def choose(on: Shaped[Array, "batch ..."], off: Shaped[Array, "batch ..."]) -> Array:
        return jnp.where(online.reshape(-1, *[1] * (on.ndim - 1)), on, off)

    batch = jax.tree.map(choose, state.replay.take(row), data.take(index))
    kept = jax.tree.map(lambda on, off: choose(on[row], off[index]), state.replay.stored, stored)
    return Batch(batch, kept, online)


# It is inlined; as a `jit` it is traced once for both uses, the metrics' names and the step.
@functools.partial(jax.jit, static_argnums=0, inline=True)
def online_update(
    setup: Setup, state: TrainState, data: DeviceData, stored: PyTree, update: Int[Array, ""]
) -> tuple[TrainState, Metrics]:
    """One stratified update of one seed; `update` counts the online updates."""
    batch = sample_batch(setup, state, data, stored, update)
    keys = Keys(*(stream(state.seed, purpose, update) for purpose in Keys._fields))
    learned, metrics = setup.algorithm.update(state.learned, batch, keys)
    return eqx.tree_at(lambda s: s.learned, state, learned), metrics


def choose_action(
    setup: Setup, state: TrainState, obs: Float[Array, " obs"], step: Int[Array, ""]
) -> TrainState:
    """The state with the exploring action of environment step `step` in `obs`, for one seed."""
    policy = setup.algorithm.agent.policy(state.learned.agent)
    action = policy.sample(obs, stream(state.seed, "act", step))
    return eqx.tree_at(lambda s: (s.obs, s.action), state, (obs, action))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def act_in(
    setup: Setup, state: TrainState, obs: Float[Array, "seeds obs"], step: Int[Array, ""]
) -> TrainState:
    """The state with the actions of environment step `step` in these states, for every seed."""
    return jax.vmap(lambda s, o: choose_action(setup, s, o, step))(state, obs)


def online_step(
    setup: Setup,
    state: TrainState,
    total: Accumulator,
    data: DeviceData,
    stored: PyTree,
    transition: Transition,
    next_obs: Float[Array, "seeds obs"],
    step: Int[Array, ""],
) -> tuple[TrainState, Accumulator]:
    """Store the transition of environment step `step`, update UTD times, choose the next action.

    `next_obs` is what the policy sees next: the transition's next state, or the first state of a
    new episode.
    """

    def one(
        state: TrainState,
        total: Accumulator,
        stored: PyTree,
        transition: Transition,
        next_obs: Float[Array, " obs"],
    ) -> tuple[TrainState, Accumulator]:
        key = stream(state.seed, "store", step)
        score = setup.algorithm.score
        kept = score.store(state.learned.score, transition.obs[None], key[None])
        replay = state.replay.insert(transition, jax.tree.map(lambda x: x[0], kept))
        state = eqx.tree_at(lambda s: s.replay, state, replay)

        def update(state: TrainState, i: Int[Array, ""]) -> tuple[TrainState, Metrics]:
            return online_update(setup, state, data, stored, step * setup.utd + i)

        def learn(state: TrainState, total: Accumulator) -> tuple[TrainState, Accumulator]:
            state, metrics = jax.lax.scan(update, state, jnp.arange(setup.utd))
            return state, total.add(metrics, jnp.full(setup.utd, step))

        if setup.frozen > 0:
            state, total = jax.lax.cond(
                step < setup.frozen, lambda *same: same, learn, state, total
            )
        else:
            state, total = learn(state, total)
        return choose_action(setup, state, next_obs, step + 1), total

    return jax.vmap(one)(state, total, stored, transition, next_obs)


def _part(state: TrainState, setup: Setup) -> list[PyTree]:
    """The parts of the state that no online update changes."""
    return [getattr(state.learned.score, name) for name in setup.algorithm.score.frozen]


def _with_part(state: TrainState, setup: Setup, part: list[PyTree]) -> TrainState:
    if not part:
        return state
    where = functools.partial(_part, setup=setup)
    return eqx.tree_at(where, state, part, is_leaf=lambda x: x is None)


@functools.lru_cache(maxsize=8)
def _step(setup: Setup) -> Callable[..., tuple[TrainState, Accumulator]]:
    """`online_step` as `Carried` takes it; what is frozen need not come back."""

    def step(
        carry: tuple[TrainState, Accumulator],
        constant: tuple[list[PyTree], DeviceData, PyTree],
        *new: Any,
    ) -> tuple[TrainState, Accumulator]:
        (state, total), (frozen, *rest) = carry, constant
        state, total = online_step(setup, _with_part(state, setup, frozen), total, *rest, *new)
        return _with_part(state, setup, [None] * len(frozen)), total

    return step


class Loop:
    """The online phase between two dispatches."""

    def __init__(self, setup: Setup, state: TrainState, data: DeviceData, stored: PyTree) -> None:
        self._setup, self._data = setup, (data, stored)
        self._empty = empty_online_accumulator(setup, state, data, stored)
        self._carried = Carried(_step(setup), *self._parted(state, self._fresh_total()))

    def _parted(self, state: TrainState, total: Accumulator) -> tuple[PyTree, PyTree]:
        """(what a step changes, what it does not)."""
        self._frozen = _part(state, self._setup)
        rest = _with_part(state, self._setup, [None] * len(self._frozen))
        return (rest, total), (self._frozen, *self._data)

    def _fresh_total(self) -> Accumulator:
        return jax.tree.map(jnp.copy, self._empty)

    @property
    def state(self) -> TrainState:
        """The training state as it is now; the next step donates its arrays."""
        return _with_part(self._carried.carry[0], self._setup, self._frozen)

    @state.setter
    def state(self, state: TrainState) -> None:
        self._carried.set(*self._parted(state, self._carried.carry[1]))

    def action(self) -> Float[np.ndarray, "seeds act"]:
        """The action to take next; waits for the device."""
        return np.array(self._carried.leaf(lambda carry: carry[0].action))  # the state is donated

    def step(
        self, transition: Transition, next_obs: Float[np.ndarray, "seeds obs"], number: int
    ) -> None:
        """`online_step`. NumPy arrays: a compiled function takes them faster than device arrays."""
        self._carried(transition, next_obs, np.int32(number))

    @property
    def total(self) -> Accumulator:
        """The sums of metrics since the last log point; the next step donates its arrays."""
        return self._carried.carry[1]

    @total.setter
    def total(self, total: Accumulator) -> None:
        self._carried.set(*self._parted(self.state, total))

    def take_total(self) -> Accumulator:
        """The sums of metrics since the last call."""
        total, self.total = self.total, self._fresh_total()
        return total


def empty_online_accumulator(
    setup: Setup, state: TrainState, data: DeviceData, stored: PyTree
) -> Accumulator:
    """Zero sums of the metrics that an online update reports."""
    update = jax.vmap(lambda s, kept: online_update(setup, s, data, kept, jnp.zeros((), jnp.int32)))
    names = tuple(jax.eval_shape(update, state, stored)[1])
    return jax.vmap(lambda _: empty_accumulator(names))(state.seed)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def finish_episodes(setup: Setup, state: TrainState, lengths: Int[Array, " seeds"]) -> TrainState:
    """Fill in the returns-to-go of episodes that just ended; length 0: still running."""
    discount = setup.algorithm.agent.discount
    replay = jax.vmap(
        lambda r, n: r.finish_episode(n, discount, setup.horizon, setup.failure_reward)
    )(state.replay, lengths)
    return eqx.tree_at(lambda s: s.replay, state, replay)
