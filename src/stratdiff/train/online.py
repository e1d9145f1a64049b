"""One environment step of the online phase, as one dispatch: store, learn, act."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef
from jaxtyping import Array, Bool, Float, Int, Shaped

from stratdiff import stratify
from stratdiff.agents.base import Metrics
from stratdiff.data.batch import Transition
from stratdiff.diffusion.sampler import guided
from stratdiff.diffusion.score import BehaviourState
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


def sample_batch(
    learner: Learner,
    state: TrainState,
    data: DeviceData,
    support: Support | None,
    update: Int[Array, ""],
) -> tuple[Transition, Float[Array, "batch support act"] | None, Bool[Array, " batch"]]:
    """(batch, support actions of its states, which rows are from D_on).

    The first rows are from D_off, the last ones from D_on once it holds `online_warmup`.
    """
    c = learner.config
    offline_key, online_key = jax.random.split(stream(state.seed, Stream.BATCH, update))
    index = jax.random.randint(offline_key, (c.batch_size,), 0, len(data.rows))
    row = jax.random.randint(online_key, (c.batch_size,), 0, jnp.maximum(state.replay.size, 1))
    n_offline = stratify.offline_like_count(c.offline_fraction, c.batch_size)
    warm = state.replay.size >= c.online_warmup
    online = warm & (jnp.arange(c.batch_size) >= n_offline)

    def choose(on: Shaped[Array, "batch ..."], off: Shaped[Array, "batch ..."]) -> Array:
        return jnp.where(online.reshape(-1, *[1] * (on.ndim - 1)), on, off)

    batch = jax.tree.map(lambda on, off: choose(on[row], off), state.replay.data, data.take(index))
    actions = None
    if support is not None:
        assert state.replay.support is not None
        actions = choose(state.replay.support[row], support[index])
    return batch, actions, online


def alignment(
    learner: Learner,
    state: TrainState,
    batch: Transition,
    support: Float[Array, "batch support act"] | None,
    update: Int[Array, ""],
) -> Float[Array, " batch"]:
    """The alignment score of every row by the configured method (METHOD 4)."""
    c, key = learner.config, stream(state.seed, Stream.ALIGNMENT, update)
    if c.method == "random":
        return jax.random.uniform(key, batch.reward.shape)
    if c.alignment == "support":
        assert support is not None
        q = learner.support_q(state.agent, batch.obs, support)
        weighted = c.guidance_scale * c.energy.inverse_temperature * q
        return stratify.support_alignment(batch.action, support, weighted)
    assert state.behaviour is not None
    score = learner.behaviour.score(state.behaviour.ema, batch.obs)
    if c.needs_energy:
        assert state.energy is not None
        net = learner.behaviour.for_sampling(state.energy.net)
        score = guided(score, lambda a, t: net(batch.obs, a, t), c.guidance_scale)
    noise = jax.random.normal(key, batch.action.shape)
    return stratify.guided_alignment(batch.action, learner.behaviour.sample(score, noise))


def online_update(
    learner: Learner,
    state: TrainState,
    data: DeviceData,
    support: Support | None,
    update: Int[Array, ""],
) -> tuple[TrainState, Metrics]:
    """One stratified update of one seed; `update` counts the online updates."""
    c = learner.config
    batch, actions, online = sample_batch(learner, state, data, support, update)
    metrics: Metrics = {}
    if c.method != "base":
        values = alignment(learner, state, batch, actions, update)
        metrics |= stratify.diagnostics(values, online, learner.k)
        order = stratify.split(values, learner.k)
        stratified = jax.tree.map(lambda x: x[order], batch)
    else:
        stratified = batch
    if c.needs_energy:
        assert state.energy is not None and actions is not None
        # With the Q of before the update, as the alignment above.
        q = learner.support_q(state.agent, batch.obs, actions)
        energy_key = stream(state.seed, Stream.ONLINE_ENERGY, update)
        energy, more = learner.energy.update(state.energy, batch.obs, actions, q, energy_key)
        state = eqx.tree_at(lambda s: s.energy, state, energy)
        metrics |= more
    key = stream(state.seed, Stream.AGENT, update)
    agent, more = _isolated(
        lambda s, b: learner.agent.update(s, b, key, learner.k), update, state.agent, stratified
    )
    return eqx.tree_at(lambda s: s.agent, state, agent), metrics | more


def _isolated(
    function: Callable[..., tuple[Any, Metrics]], update: Int[Array, ""], *operands: Any
) -> tuple[Any, Metrics]:
    """`function(*operands)` as a computation of its own in the compiled program.

    The compiler does not fuse across a branch, so the base algorithm's sums round the same
    whatever surrounds them: ρ = 1 gives its bits. The branch is always taken.
    """
    shapes = jax.eval_shape(function, *operands)
    return jax.lax.cond(
        update >= 0,
        function,
        lambda *_: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
        *operands,
    )


def choose_action(
    learner: Learner, state: TrainState, obs: Float[Array, " obs"], step: Int[Array, ""]
) -> TrainState:
    """The state with the exploring action of environment step `step`, for one seed."""
    key = stream(state.seed, Stream.ACT, step)
    action = learner.agent.policy(state.agent).sample(obs, key)
    return eqx.tree_at(lambda s: s.action, state, action)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def first_action(learner: Learner, state: TrainState, obs: Float[Array, "seeds obs"]) -> TrainState:
    """The state with the action of environment step 0, for every seed."""
    zero = jnp.zeros((), jnp.int32)
    return jax.vmap(lambda s, o: choose_action(learner, s, o, zero))(state, obs)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def online_step(
    learner: Learner,
    state: TrainState,
    total: Accumulator,
    data: DeviceData,
    support: Float[Array, "seeds n support act"] | None,
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
        support: Support | None,
        transition: Transition,
        next_obs: Float[Array, " obs"],
    ) -> tuple[TrainState, Accumulator]:
        actions = None
        if learner.config.needs_support:
            assert state.behaviour is not None
            key = stream(state.seed, Stream.ONLINE_SUPPORT, step)
            actions = learner.behaviour.support(state.behaviour, transition.obs[None], key[None])[0]
        replay = state.replay.insert(transition, actions)
        state = eqx.tree_at(lambda s: s.replay, state, replay)

        def update(state: TrainState, i: Int[Array, ""]) -> tuple[TrainState, Metrics]:
            number = step * learner.config.utd + i
            return online_update(learner, state, data, support, number)

        utd = learner.config.utd
        state, metrics = jax.lax.scan(update, state, jnp.arange(utd))
        total = total.add(metrics, jnp.full(utd, step))
        return choose_action(learner, state, next_obs, step + 1), total

    return jax.vmap(one)(state, total, support, transition, next_obs)


@functools.lru_cache(maxsize=8)
def _flat_step(learner: Learner, carry: PyTreeDef, constant: PyTreeDef) -> Callable[..., Any]:
    """`online_step` on the leaves of (state, total) and of (data, support, behaviour)."""

    def step(
        leaves: list[Array],
        constants: list[Array],
        transition: Transition,
        next_obs: Float[Array, "seeds obs"],
        number: Int[Array, ""],
    ) -> list[Array]:
        state, total = jax.tree.unflatten(carry, leaves)
        data, support, behaviour = jax.tree.unflatten(constant, constants)
        state = _with_behaviour(state, behaviour)
        state, total = online_step(
            learner, state, total, data, support, transition, next_obs, number
        )
        return jax.tree.leaves((_with_behaviour(state, None), total))

    return jax.jit(step, donate_argnums=0)


def _with_behaviour(state: TrainState, behaviour: BehaviourState | None) -> TrainState:
    return eqx.tree_at(lambda s: s.behaviour, state, behaviour, is_leaf=lambda x: x is None)


class Loop:
    """The online phase between two dispatches, as flat lists of arrays.

    To take a state's modules apart and put them together at every step takes Python longer than
    the dispatch itself. The frozen behaviour model stands aside: it need not come back.
    """

    def __init__(
        self,
        learner: Learner,
        state: TrainState,
        data: DeviceData,
        support: Float[Array, "seeds n support act"] | None,
    ) -> None:
        self._empty = empty_online_accumulator(learner, state, data, support)
        self._data = data, support
        self._set(state, self._fresh_total())
        index = jax.tree.unflatten(self._carry, range(len(self._leaves)))
        self._action: int = index[0].action
        self._step = _flat_step(learner, self._carry, jax.tree.structure(self._constants_tree))

    def _set(self, state: TrainState, total: Accumulator) -> None:
        self._constants_tree = *self._data, state.behaviour
        self._constants = jax.tree.leaves(self._constants_tree)
        changing = _with_behaviour(state, None), total
        self._leaves, self._carry = jax.tree.flatten(changing)

    def _get(self) -> tuple[TrainState, Accumulator]:
        state, total = jax.tree.unflatten(self._carry, self._leaves)
        return _with_behaviour(state, self._constants_tree[-1]), total

    @property
    def state(self) -> TrainState:
        """The training state as it is now; the next step donates its arrays."""
        return self._get()[0]

    @state.setter
    def state(self, state: TrainState) -> None:
        self._set(state, self._get()[1])

    def action(self) -> Float[np.ndarray, "seeds act"]:
        """The action to take next; waits for the device."""
        return np.array(self._leaves[self._action])  # a copy: the state is donated

    def step(
        self, transition: Transition, next_obs: Float[np.ndarray, "seeds obs"], number: int
    ) -> None:
        """`online_step`. NumPy arrays: a compiled function takes them faster than device arrays."""
        self._leaves = self._step(
            self._leaves, self._constants, transition, next_obs, np.int32(number)
        )

    def take_total(self) -> Accumulator:
        """The sums of metrics since the last call."""
        state, total = self._get()
        self._set(state, self._fresh_total())
        return total

    def _fresh_total(self) -> Accumulator:
        return jax.tree.map(jnp.copy, self._empty)


def empty_online_accumulator(
    learner: Learner,
    state: TrainState,
    data: DeviceData,
    support: Float[Array, "seeds n support act"] | None,
) -> Accumulator:
    """Zero sums of the metrics that an online update reports."""
    update = jax.vmap(
        lambda s, actions: online_update(learner, s, data, actions, jnp.zeros((), jnp.int32))
    )
    names = tuple(jax.eval_shape(update, state, support)[1])
    return jax.vmap(lambda _: empty_accumulator(names))(state.seed)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def finish_episodes(
    learner: Learner, state: TrainState, lengths: Int[Array, " seeds"]
) -> TrainState:
    """Fill in the returns-to-go of episodes that just ended; length 0: still running."""
    c = learner.config
    failure = learner.reward.shift if c.recipe == "antmaze" else None
    replay = jax.vmap(lambda r, n: r.finish_episode(n, c.agent.discount, learner.horizon, failure))(
        state.replay, lengths
    )
    return eqx.tree_at(lambda s: s.replay, state, replay)
