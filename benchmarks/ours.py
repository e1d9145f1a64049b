"""StratDiff's own work, as cases for the worker: made-up data of HalfCheetah's sizes."""

import functools
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flop
from stratdiff.agents.iql import IQLConfig
from stratdiff.config import Config, make_config
from stratdiff.data import dataset as dataset_module
from stratdiff.data.device import DeviceData, to_device
from stratdiff.diffusion.sampler import guided
from stratdiff.presets import PRESETS
from stratdiff.scores.base import SCORES
from stratdiff.tasks import find_task
from stratdiff.training import online, pretrain
from stratdiff.training.setup import make_setup, reward_scale
from stratdiff.training.state import TrainState

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


# What IQL's online-like rows get unless the paper's pair is asked for.
PLAIN_TD = {name: getattr(IQLConfig(), name) for name in PRESETS["paper"]["iql"]}
CORE = Path(__file__).parents[1] / "experiments" / "core.toml"


def config(small: bool = False, **options: Any) -> Config:
    """The paper preset's sizes, or those of the core comparison, with a replay buffer of 10 000.

    IQL's online-like rows get the package's default, except with the paper's score: for that the
    eager reference has the paper's pair.
    """
    options = {"env": ENV, "online_steps": 10_000, "base": "iql", "score": "guided"} | options
    if small:
        score = SCORES.find(options["score"])
        known = {"batch_size", options["base"], *(f.name for f in fields(score.options))}
        core = tomllib.loads(CORE.read_text(encoding="utf-8"))["options"]
        options = {k: v for k, v in core.items() if k in known} | options
    if options["base"] == "iql" and options["score"] != "guided":
        options["iql"] = PLAIN_TD | options.get("iql", {})
    return make_config("paper", **options)


class Training:
    """The state of a run with fresh weights, its data, and a replay buffer that is full."""

    def __init__(self, rows: int = ROWS, **options: Any) -> None:
        dataset, c = made_up(rows), config(**options)
        self.setup, units = make_setup(c, find_task(ENV), reward_scale(c, dataset))
        self.algorithm = self.setup.algorithm
        discount = self.algorithm.agent.discount
        self.data: DeviceData = to_device(dataset, units.scale, units.shift, discount, False)
        self.state: TrainState = self.setup.init(c.seeds)
        lead = len(c.seeds), len(self.data)
        rng = np.random.default_rng(1)
        self.stored = jax.tree.map(
            lambda x: jnp.asarray(2 * rng.random((*lead, *x.shape), np.float32) - 1),
            self.setup.stored_shapes(self.one.learned),
        )
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


def offline_case(phase: str, chunk: int = 20, **options: Any) -> Run:
    """Updates of an offline phase, `chunk` of them in one dispatch, as a run dispatches them."""
    t = Training(**options)

    def steps(state: TrainState, first: jax.Array) -> tuple[TrainState, Any]:
        return pretrain.run_steps(t.setup, phase, state, t.data, t.stored, first, chunk)

    def run(n: int) -> None:
        for i in range(n):
            t.state, _ = steps(t.state, jnp.asarray(i * chunk))
        jax.block_until_ready(t.state)

    return _case(run, chunk, flop.count(steps, t.state, jnp.asarray(0)))


def online_case(chunk: int = 10, **options: Any) -> Run:
    """Online updates (sample, score, split, update) on a full replay buffer, without acting."""
    t = Training(**options)

    @functools.partial(jax.jit, donate_argnums=0)
    def updates(
        state: TrainState, data: DeviceData, stored: Any, first: jax.Array
    ) -> tuple[TrainState, Any]:
        vmapped = jax.vmap(
            lambda s, kept, i: online.online_update(t.setup, s, data, kept, i), in_axes=(0, 0, None)
        )
        return jax.lax.scan(
            lambda state, i: vmapped(state, stored, i), state, first + jnp.arange(chunk)
        )

    def run(n: int) -> None:
        for i in range(n):
            t.state, _ = updates(t.state, t.data, t.stored, jnp.asarray(i * chunk))
        jax.block_until_ready(t.state)

    return _case(run, chunk, flop.count(updates, t.state, t.data, t.stored, jnp.asarray(0)))


def guided_sampling_case(**options: Any) -> Run:
    """256 guided actions, one for each of 256 states."""
    t = Training(rows=2000, **options)
    models, obs = t.one.learned.score, jnp.zeros((256, OBS))
    score: Any = t.algorithm.score

    @jax.jit
    def sample(models: Any, key: jax.Array) -> jax.Array:
        net = score.model.for_sampling(models.energy.net)
        direction = score.model.score(models.behaviour.ema, obs)
        direction = guided(direction, lambda a, t: net(obs, a, t), score.config.guidance_scale)
        return score.model.sample(direction, jax.random.normal(key, (len(obs), ACT)))

    return _draws(sample, models)


def support_case(**options: Any) -> Run:
    """The support actions of one new transition, as every environment step draws them."""
    t = Training(rows=2000, **options)
    obs = jnp.zeros((1, OBS))
    draw = jax.jit(lambda models, key: t.algorithm.score.store(models, obs, key[None]))
    return _draws(draw, t.one.learned.score)


def _draws(draw: Callable[[Any, jax.Array], jax.Array], models: Any) -> Run:
    """One call of `draw(models, key)` at a time."""

    def run(n: int) -> None:
        for i in range(n):
            draw(models, jax.random.key(i)).block_until_ready()

    return _case(run, 1, flop.count(draw, models, jax.random.key(0)))


def act_case(**options: Any) -> Run:
    """One exploring action as a dispatch of its own (online it is part of the step's)."""
    t = Training(rows=2000, **options)
    obs, step = np.zeros((1, OBS), np.float32), jnp.asarray(0)

    def run(n: int) -> None:
        for _ in range(n):
            t.state = online.act_in(t.setup, t.state, obs, step)
        jax.block_until_ready(t.state)

    return _case(run)


MATMUL_ROWS = 7680
"""Actions whose Q a Cal-QL update of 256 states asks for."""


def matmul_case(
    dtype: str = "float32", rows: int = MATMUL_ROWS, width: int = 256, times: int = 10
) -> Run:
    """A matrix product of a Cal-QL update's size, or another: the rate that the machine reaches."""
    weight = jnp.eye(width, dtype=dtype)

    @functools.partial(jax.jit, donate_argnums=0)
    def multiply(x: jax.Array) -> jax.Array:
        def product(_: int, x: jax.Array) -> jax.Array:
            return jnp.matmul(x.astype(dtype), weight, preferred_element_type=jnp.float32)

        return jax.lax.fori_loop(0, times, product, x)

    state = [jnp.ones((rows, width))]

    def run(n: int) -> None:
        for _ in range(n):
            state[0] = multiply(state[0])
        state[0].block_until_ready()

    return _case(run, times, {dtype: times * 2.0 * rows * width * width})


CASES: dict[str, Callable[..., Run]] = {
    "matmul": matmul_case,
    "iql offline": functools.partial(offline_case, "base", base="iql", score="none"),
    "calql offline": functools.partial(offline_case, "base", chunk=5, base="calql", score="none"),
    "rebrac offline": functools.partial(offline_case, "base", base="rebrac", score="none"),
    "behaviour step": functools.partial(offline_case, "behaviour", chunk=1),
    "energy step": functools.partial(offline_case, "energy", chunk=5),
    "guided sampling of 256": guided_sampling_case,
    "support of one transition": support_case,
    "act": functools.partial(act_case, score="none"),
}
KINDS: dict[str, dict[str, Any]] = {
    "base": {"score": "none"},
    "origin": {"score": "origin"},
    "guided": {"score": "guided", "chunk": 2},
    "support": {"score": "support"},
    "likelihood": {"score": "likelihood"},
    "exchange": {"score": "support", "split": "exchange"},
}
for _base in ("iql", "calql", "rebrac"):
    for _name, _options in KINDS.items():
        CASES[f"{_base} online {_name}"] = functools.partial(online_case, base=_base, **_options)
