"""StratDiff's own work, as cases for the worker: made-up data of HalfCheetah's sizes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stratdiff.config import Config, make_config
from stratdiff.data import dataset as dataset_module
from stratdiff.diffusion.sampler import guided
from stratdiff.tasks import find_task
from stratdiff.train import offline, online
from stratdiff.train.state import DeviceData, Learner, TrainState, make_learner, to_device

ROWS = 100_000
ENV = "HalfCheetah-v4"
OBS, ACT = 17, 6
Run = Callable[[int], None]


def made_up(rows: int, horizon: int = 1000) -> dataset_module.Dataset:
    """Random transitions in episodes of `horizon` steps."""
    rng = np.random.default_rng(0)
    ends = np.zeros(rows, np.float32)
    ends[horizon - 1 :: horizon] = 1
    arrays = {
        "observations": rng.standard_normal((rows, OBS), np.float32),
        "actions": 2 * rng.random((rows, ACT), np.float32) - 1,
        "rewards": rng.standard_normal(rows, np.float32),
        "terminals": np.zeros(rows, np.float32),
        "timeouts": ends,
    }
    return dataset_module.from_arrays("made up", arrays, ENV)


def config(**options: Any) -> Config:
    """The paper preset's sizes with a replay buffer of 10 000 transitions."""
    return make_config("paper", **({"env": ENV, "online_steps": 10_000} | options))


class Setup:
    """A learner with fresh weights, its data, and a replay buffer that is full."""

    def __init__(self, rows: int = ROWS, **options: Any) -> None:
        data = made_up(rows)
        self.learner: Learner = make_learner(config(**options), find_task(ENV), data)
        c = self.learner.config
        self.data: DeviceData = to_device(self.learner, data)
        self.state: TrainState = self.learner.init(c.seeds)
        self.support = None
        if c.needs_support:
            m = c.behaviour.support_actions
            shape = (len(c.seeds), len(data), m, ACT)
            rng = np.random.default_rng(1)
            self.support = jnp.asarray(2 * rng.random(shape, np.float32) - 1)
        replay = jax.tree.map(
            lambda x: jnp.asarray(np.random.default_rng(2).random(x.shape).astype(x.dtype)),
            self.state.replay,
        )
        replay = jax.tree.map(lambda x: x, replay)
        full = jnp.full(len(c.seeds), c.online_steps, jnp.int32)
        self.state = _with_replay(self.state, replay, full)


def _with_replay(state: TrainState, replay: Any, inserted: jax.Array) -> TrainState:
    import equinox as eqx

    state = eqx.tree_at(lambda s: s.replay, state, replay)
    return eqx.tree_at(lambda s: s.replay.inserted, state, inserted)


def _repeat(setup: Setup, chunk: int, call: Callable[[Setup, int], Any]) -> Run:
    """run(n) that makes n calls of `chunk` units each."""

    def run(n: int) -> None:
        for i in range(n):
            call(setup, i * chunk)
        jax.block_until_ready(setup.state)

    run.units = chunk  # type: ignore[attr-defined]
    return run


def offline_case(step: offline.Step, chunk: int = 20, **options: Any) -> Run:
    """Updates of an offline phase, `chunk` of them a dispatch."""

    def call(s: Setup, first: int) -> None:
        s.state, _ = offline.run_steps(
            step, s.learner, s.state, s.data, s.support, jnp.asarray(first), chunk
        )

    return _repeat(Setup(**options), chunk, call)


def online_case(chunk: int = 10, **options: Any) -> Run:
    """Online updates (sample, align, split, update) on a full replay buffer, without acting."""

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def updates(
        learner: Learner, state: TrainState, data: DeviceData, support: Any, first: jax.Array
    ) -> TrainState:
        def one(state: TrainState, actions: Any, i: jax.Array) -> TrainState:
            # The metrics are computed in a run, so they are here.
            state, metrics = online.online_update(learner, state, data, actions, i)
            return state, metrics

        vmapped = jax.vmap(one, in_axes=(0, 0, None))

        def body(state: TrainState, i: jax.Array) -> tuple[TrainState, Any]:
            return vmapped(state, support, i)

        return jax.lax.scan(body, state, first + jnp.arange(chunk))

    def call(s: Setup, first: int) -> None:
        s.state, _ = updates(s.learner, s.state, s.data, s.support, jnp.asarray(first))

    return _repeat(Setup(**options), chunk, call)


def guided_sampling_case(**options: Any) -> Run:
    """256 guided actions, one for each of 256 states."""
    s = Setup(**options)

    @functools.partial(jax.jit, static_argnums=0)
    def sample(learner: Learner, state: TrainState, obs: jax.Array, key: jax.Array) -> jax.Array:
        net = learner.behaviour.for_sampling(state.energy.net)
        score = learner.behaviour.score(state.behaviour.ema, obs)
        score = guided(score, lambda a, t: net(obs, a, t), learner.config.guidance_scale)
        return learner.behaviour.sample(score, jax.random.normal(key, (len(obs), ACT)))

    one, obs = jax.tree.map(lambda x: x[0], s.state), jnp.zeros((256, OBS))

    def run(n: int) -> None:
        for i in range(n):
            sample(s.learner, one, obs, jax.random.key(i)).block_until_ready()

    return run


def support_case(**options: Any) -> Run:
    """The support actions of one new transition."""
    s = Setup(rows=2000, **options)

    @functools.partial(jax.jit, static_argnums=0)
    def draw(learner: Learner, state: TrainState, obs: jax.Array, key: jax.Array) -> jax.Array:
        return learner.behaviour.support(state.behaviour, obs, key)

    one, obs = jax.tree.map(lambda x: x[0], s.state), jnp.zeros((1, OBS))

    def run(n: int) -> None:
        for i in range(n):
            draw(s.learner, one, obs, jax.random.split(jax.random.key(i), 1)).block_until_ready()

    return run


def act_case(**options: Any) -> Run:
    """One exploring action, as a dispatch of its own (online it is part of the step's)."""
    s = Setup(rows=2000, **options)
    obs = np.zeros((1, OBS), np.float32)

    def run(n: int) -> None:
        for _ in range(n):
            s.state = online.first_action(s.learner, s.state, obs)
        jax.block_until_ready(s.state)

    return run


def matmul_case() -> Run:
    """A matrix product of a Cal-QL update's size, 7680 x 256 x 256: what the machine can do."""
    multiply = jax.jit(
        lambda x, w: jax.lax.fori_loop(0, MATMULS, lambda _, x: x @ w, x), donate_argnums=0
    )
    state = [jnp.ones((7680, 256)), jnp.eye(256)]

    def run(n: int) -> None:
        for _ in range(n):
            state[0] = multiply(state[0], state[1])
        state[0].block_until_ready()

    run.units = MATMULS  # type: ignore[attr-defined]
    return run


MATMULS = 10
MATMUL_FLOP = 2 * 7680 * 256 * 256

_SUPPORT = {"alignment": "support"}
_PLAIN = {"method": "base"}
CASES: dict[str, Callable[[], Run]] = {
    "matmul": matmul_case,
    "iql offline": lambda: offline_case(offline.base_step, base="iql", **_PLAIN),
    "calql offline": lambda: offline_case(offline.base_step, 5, base="calql", **_PLAIN),
    "behaviour step": lambda: offline_case(offline.behaviour_step, 5),
    "energy step": lambda: offline_case(offline.energy_step, 5),
    "guided sampling of 256": guided_sampling_case,
    "support of one transition": support_case,
    "act": lambda: act_case(**_PLAIN),
}
for _base in ("iql", "calql"):
    for _name, _options in (("base", _PLAIN), ("guided", {}), ("support", _SUPPORT)):
        CASES[f"{_base} online {_name}"] = functools.partial(online_case, base=_base, **_options)
