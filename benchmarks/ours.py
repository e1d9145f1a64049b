"""StratDiff's own work, as cases for the worker: made-up data of HalfCheetah's sizes."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flop
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
        rng = np.random.default_rng(2)
        replay = jax.tree.map(
            lambda x: jnp.asarray(rng.random(x.shape).astype(x.dtype)), self.state.replay
        )
        full = jnp.full(len(c.seeds), c.online_steps, jnp.int32)
        replay = eqx.tree_at(lambda r: r.inserted, replay, full)
        self.state = eqx.tree_at(lambda s: s.replay, self.state, replay)

    @property
    def one(self) -> TrainState:
        """The state of the first seed."""
        return jax.tree.map(lambda x: x[0], self.state)


def _case(run: Run, units: int = 1, flop: dict[str, float] | None = None) -> Run:
    """`run` with what the worker asks for: units a call, and the arithmetic of one unit."""
    run.units = units  # type: ignore[attr-defined]
    run.flop = {kind: n / units for kind, n in (flop or {}).items()}  # type: ignore[attr-defined]
    return run


def offline_case(step: offline.Step, chunk: int = 20, **options: Any) -> Run:
    """Updates of an offline phase, `chunk` of them a dispatch, as a run has one a log interval."""
    s = Setup(**options)

    def steps(state: TrainState, first: jax.Array) -> tuple[TrainState, Any]:
        return offline.run_steps(step, s.learner, state, s.data, s.support, first, chunk)

    def run(n: int) -> None:
        for i in range(n):
            s.state, _ = steps(s.state, jnp.asarray(i * chunk))
        jax.block_until_ready(s.state)

    return _case(run, chunk, flop.count(steps, s.state, jnp.asarray(0)))


def online_case(chunk: int = 10, **options: Any) -> Run:
    """Online updates (sample, align, split, update) on a full replay buffer, without acting."""
    s = Setup(**options)

    @functools.partial(jax.jit, donate_argnums=0)
    def updates(
        state: TrainState, data: DeviceData, support: Any, first: jax.Array
    ) -> tuple[TrainState, Any]:
        vmapped = jax.vmap(
            lambda s_, actions, i: online.online_update(s.learner, s_, data, actions, i),
            in_axes=(0, 0, None),
        )
        return jax.lax.scan(
            lambda state, i: vmapped(state, support, i), state, first + jnp.arange(chunk)
        )

    def run(n: int) -> None:
        for i in range(n):
            s.state, _ = updates(s.state, s.data, s.support, jnp.asarray(i * chunk))
        jax.block_until_ready(s.state)

    return _case(run, chunk, flop.count(updates, s.state, s.data, s.support, jnp.asarray(0)))


def guided_sampling_case(**options: Any) -> Run:
    """256 guided actions, one for each of 256 states."""
    s = Setup(rows=2000, **options)
    state, obs = s.one, jnp.zeros((256, OBS))

    @jax.jit
    def sample(state: TrainState, key: jax.Array) -> jax.Array:
        assert state.behaviour is not None and state.energy is not None
        net = s.learner.behaviour.for_sampling(state.energy.net)
        score = s.learner.behaviour.score(state.behaviour.ema, obs)
        score = guided(score, lambda a, t: net(obs, a, t), s.learner.config.guidance_scale)
        return s.learner.behaviour.sample(score, jax.random.normal(key, (len(obs), ACT)))

    def run(n: int) -> None:
        for i in range(n):
            sample(state, jax.random.key(i)).block_until_ready()

    return _case(run, 1, flop.count(sample, state, jax.random.key(0)))


def support_case(**options: Any) -> Run:
    """The support actions of one new transition, as every environment step draws them."""
    s = Setup(rows=2000, **options)
    state, obs = s.one, jnp.zeros((1, OBS))

    @jax.jit
    def draw(state: TrainState, key: jax.Array) -> jax.Array:
        assert state.behaviour is not None
        return s.learner.behaviour.support(state.behaviour, obs, key[None])

    def run(n: int) -> None:
        for i in range(n):
            draw(state, jax.random.key(i)).block_until_ready()

    return _case(run, 1, flop.count(draw, state, jax.random.key(0)))


def act_case(**options: Any) -> Run:
    """One exploring action as a dispatch of its own (online it is part of the step's)."""
    s = Setup(rows=2000, **options)
    obs = np.zeros((1, OBS), np.float32)

    def run(n: int) -> None:
        for _ in range(n):
            s.state = online.first_action(s.learner, s.state, obs)
        jax.block_until_ready(s.state)

    return _case(run)


MATMUL_ROWS = 7680
"""Actions whose Q a Cal-QL update of 256 states asks for."""


def matmul_case(dtype: str = "float32") -> Run:
    """A matrix product of a Cal-QL update's size: what the machine can do."""
    times = 10
    weight = jnp.eye(256, dtype=dtype)

    @functools.partial(jax.jit, donate_argnums=0)
    def multiply(x: jax.Array) -> jax.Array:
        def product(_: int, x: jax.Array) -> jax.Array:
            return jnp.matmul(x.astype(dtype), weight, preferred_element_type=jnp.float32)

        return jax.lax.fori_loop(0, times, product, x)

    state = [jnp.ones((MATMUL_ROWS, 256))]

    def run(n: int) -> None:
        for _ in range(n):
            state[0] = multiply(state[0])
        state[0].block_until_ready()

    return _case(run, times, {dtype: times * 2.0 * MATMUL_ROWS * 256 * 256})


CASES: dict[str, Callable[..., Run]] = {
    "matmul": matmul_case,
    "iql offline": functools.partial(offline_case, offline.base_step, base="iql", method="base"),
    "calql offline": functools.partial(
        offline_case, offline.base_step, chunk=5, base="calql", method="base"
    ),
    "behaviour step": functools.partial(offline_case, offline.behaviour_step, chunk=5),
    "energy step": functools.partial(offline_case, offline.energy_step, chunk=5),
    "guided sampling of 256": guided_sampling_case,
    "support of one transition": support_case,
    "act": functools.partial(act_case, method="base"),
}
for _base in ("iql", "calql"):
    _online = functools.partial(online_case, base=_base)
    CASES[f"{_base} online base"] = functools.partial(_online, method="base")
    CASES[f"{_base} online guided"] = functools.partial(_online, alignment="guided")
    CASES[f"{_base} online support"] = functools.partial(_online, alignment="support")
