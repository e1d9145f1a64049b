"""The training state: one pytree with everything that learns, and its construction.

Every array of the state has a leading axis over seeds. Randomness is a pure function of (seed,
purpose, step), so there is no generator state to lose: see `stream`.
"""

import dataclasses
import enum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from stratdiff.agents import IQL, SAC, Agent, CalQL
from stratdiff.config import Config
from stratdiff.data.batch import Transition
from stratdiff.data.dataset import Dataset, aligned_empty, returns_to_go
from stratdiff.data.replay import Replay, empty_replay
from stratdiff.diffusion.energy import EnergyModel, EnergyState
from stratdiff.diffusion.score import BehaviourModel, BehaviourState
from stratdiff.errors import UserError
from stratdiff.networks import stack
from stratdiff.stratify import offline_like_count
from stratdiff.tasks import Task, contradict


class Stream(enum.IntEnum):
    """Purposes that draw random numbers, each from its own stream."""

    INIT = 0
    BASE = 1
    BEHAVIOUR = 2
    SUPPORT = 3
    ENERGY = 4
    BATCH = 5
    AGENT = 6
    ALIGNMENT = 7
    ONLINE_ENERGY = 8
    ONLINE_SUPPORT = 9
    ACT = 10


def stream(seed: Int[Array, ""], purpose: Stream, step: Int[Array, ""] | int = 0) -> PRNGKeyArray:
    """The random key of one purpose at one step of one seed."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), step)


class TrainState(eqx.Module):
    """All that changes during training."""

    seed: Int[Array, "*seeds"]
    agent: Any
    behaviour: BehaviourState | None
    energy: EnergyState | None
    replay: Replay
    action: Float[Array, "*seeds act"]
    """The action to take in the next environment step."""


class DeviceData(eqx.Module):
    """D_off on the device, shared by all seeds. Row i of `rows` leads from obs[i] to obs[i+1].

    On the CPU this is the memory of the data set's own arrays where they are aligned, as those read
    from a file are: nothing may write to them while it is in use, and it must never be donated.
    """

    obs: Float[Array, "raw obs"]
    action: Float[Array, "raw act"]
    reward: Float[Array, " raw"]
    terminal: Bool[Array, " raw"]
    mc_return: Float[Array, " raw"]
    rows: Int[Array, " n"]
    mean: Float[Array, " obs"]
    std: Float[Array, " obs"]
    """`obs` are the raw states; `states` normalises them where they are looked up."""

    def states(self, row: Int[Array, "*batch"]) -> Float[Array, "*batch obs"]:
        """The normalised states of these rows of the file."""
        # Not a division: the compiler makes this of it, or does not, by the number of seeds.
        return (self.obs[row] - self.mean) * (1 / self.std)

    def take(self, index: Int[Array, " batch"]) -> Transition:
        """The transitions of these indices, 0 to n - 1."""
        row = self.rows[index]
        return Transition(
            obs=self.states(row),
            action=self.action[row],
            reward=self.reward[row],
            next_obs=self.states(row + 1),
            terminal=self.terminal[row],
            mc_return=self.mc_return[row],
        )


@dataclasses.dataclass(frozen=True)
class RewardRule:
    """Training reward = scale · r + shift; Q in training units / q_divisor is in reference units.

    METHOD 7, "Reward units".
    """

    scale: float
    shift: float
    q_divisor: float


def reward_rule(config: Config, dataset: Dataset) -> RewardRule:
    """The rule of the config's recipe.

    Raises:
        UserError: the locomotion rule has no two trajectories of different return to go by.
    """
    if config.recipe == "antmaze":
        return (
            RewardRule(10.0, -5.0, 10.0) if config.base == "calql" else RewardRule(1.0, -1.0, 1.0)
        )
    if config.reward_scale > 0:
        return RewardRule(config.reward_scale, 0.0, 1.0)
    returns = dataset.episode_returns
    spread = float(np.ptp(returns)) if len(returns) else 0.0
    if spread <= 0:
        raise UserError(
            f"data set {dataset.name!r} has {len(returns)} complete trajectories, all of the same "
            "return, so rewards cannot be scaled by the range of returns; give --reward-scale."
        )
    return RewardRule(1000 / spread, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Learner:
    """Everything static of a run: sizes, hyperparameters, units. Hashable: jit closes on it."""

    config: Config
    agent: Agent
    behaviour: BehaviourModel
    energy: EnergyModel
    reward: RewardRule
    k: int
    """Offline-like rows of an online batch."""
    horizon: int
    """Longest episode that the replay buffer has to look back on."""
    capacity: int

    def init(self, seeds: tuple[int, ...]) -> TrainState:
        """The state of these seeds before any training."""
        return stack([self._init_one(seed) for seed in seeds])

    def _init_one(self, seed: int) -> TrainState:
        keys = jax.random.split(stream(jnp.asarray(seed, jnp.int32), Stream.INIT), 3)
        c, support = self.config, self.config.behaviour.support_actions
        return TrainState(
            seed=jnp.asarray(seed, jnp.int32),
            agent=self.agent.init(keys[0]),
            behaviour=self.behaviour.init(keys[1]) if c.needs_behaviour else None,
            energy=self.energy.init(keys[2]) if c.needs_energy else None,
            replay=empty_replay(
                self.capacity,
                self.agent.obs_dim,
                self.agent.action_dim,
                support if c.needs_support else 0,
            ),
            action=jnp.zeros(self.agent.action_dim),
        )

    def support_q(
        self,
        agent_state: Any,
        obs: Float[Array, "batch obs"],
        support: Float[Array, "batch support act"],
    ) -> Float[Array, "batch support"]:
        """Q̄ of support actions in reference reward units, for a softmax over them."""
        return self.agent.support_q(agent_state, obs, support) / self.reward.q_divisor


def make_learner(config: Config, task: Task, dataset: Dataset) -> Learner:
    """The static parts of a run.

    Raises:
        UserError: data and environment do not fit, or the data cannot serve the base algorithm.
    """
    for what, found, expected in (
        ("observations", dataset.observations.shape[1], task.obs_dim),
        ("actions", dataset.actions.shape[1], task.action_dim),
    ):
        if found != expected:
            raise UserError(
                f"data set {dataset.name!r} has {what} of size {found} but environment "
                f"{task.env_id!r} has size {expected}; give the --env that the data came from."
            )
    if dataset.env_id and contradict(dataset.env_id, task.env_id):
        raise UserError(
            f"data set {dataset.name!r} was collected in {dataset.env_id!r}, not in environment "
            f"{task.env_id!r}; leave out --env, or give a data set of that environment."
        )
    limit = task.longest_trajectory
    if limit is not None and dataset.longest > limit:
        raise UserError(
            f"data set {dataset.name!r} has a trajectory of {dataset.longest} rows but environment "
            f"{task.env_id!r} cuts episodes after {task.horizon} steps; mark where episodes end in "
            "`timeouts`, or give the --env that the data came from."
        )
    if config.base == "calql" and config.calql.calibrate and not dataset.ends.any():
        raise UserError(
            f"data set {dataset.name!r} has no complete trajectory (no terminal and no timeout), "
            "so Cal-QL has no return to calibrate with; mark the ends in `timeouts`, or give "
            "--calql.calibrate False (plain CQL) or --base iql."
        )
    obs_dim, action_dim = task.obs_dim, task.action_dim
    agent: Agent
    if config.base == "iql":
        agent = IQL(config.iql, obs_dim, action_dim, config.offline_steps)
    elif config.base == "calql":
        agent = CalQL(config.calql, obs_dim, action_dim)
    else:
        agent = SAC(config.sac, obs_dim, action_dim)
    rho = config.rho if config.method != "base" else 1.0
    capacity = max(config.online_steps, 1)
    return Learner(
        config=config,
        agent=agent,
        behaviour=BehaviourModel(config.behaviour, obs_dim, action_dim),
        energy=EnergyModel(config.energy, obs_dim, action_dim),
        reward=reward_rule(config, dataset),
        k=offline_like_count(rho, config.batch_size),
        horizon=min(task.horizon or capacity, capacity),
        capacity=capacity,
    )


def to_device(learner: Learner, dataset: Dataset) -> DeviceData:
    """States and what they are normalised with, training rewards and returns-to-go."""
    rule, c = learner.reward, learner.config
    mean, std = dataset.normalizer()
    rewards = aligned_empty(dataset.rewards.shape, np.float32)
    np.multiply(dataset.rewards, rule.scale, out=rewards, dtype=np.float64, casting="same_kind")
    rewards += np.float32(rule.shift)
    sparse = c.recipe == "antmaze"
    mc_return = returns_to_go(
        rewards, dataset.ends, c.agent.discount, sparse, dataset.rewards > 0 if sparse else None
    )
    return DeviceData(
        obs=jax.device_put(dataset.observations, may_alias=True),
        action=jax.device_put(dataset.actions, may_alias=True),
        reward=jax.device_put(rewards, may_alias=True),
        terminal=jnp.asarray(dataset.terminals),
        mc_return=jnp.asarray(mc_return),
        rows=jax.device_put(dataset.transitions.astype(np.int32, copy=False), may_alias=True),
        mean=jnp.asarray(mean),
        std=jnp.asarray(std),
    )


class Accumulator(eqx.Module):
    """Running sums of metrics between two log points, and where each stopped being finite.

    The metrics are the last axis of two arrays: every array of a step's state costs dispatch.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    totals: Float[Array, "*seeds metrics"]
    count: Int[Array, "*seeds"]
    bad_steps: Int[Array, "*seeds metrics"]

    @property
    def sums(self) -> dict[str, Float[Array | np.ndarray, "*seeds"]]:
        """Sum of each metric."""
        return {name: self.totals[..., i] for i, name in enumerate(self.names)}

    @property
    def bad_step(self) -> dict[str, Int[Array | np.ndarray, "*seeds"]]:
        """First step whose value was not finite; -1: none."""
        return {name: self.bad_steps[..., i] for i, name in enumerate(self.names)}

    def add(self, metrics: dict[str, Float[Array, "*n"]], step: Int[Array, "*n"]) -> "Accumulator":
        """Add the metrics of one step, or of several in order."""
        steps = step.reshape(-1)
        values = jnp.stack([metrics[name].reshape(-1) for name in self.names])
        bad = ~jnp.isfinite(values)
        first_bad = jnp.where(bad.any(1), steps[bad.argmax(1)], -1)
        return Accumulator(
            self.names,
            self.totals + values.sum(1),
            self.count + len(steps),
            jnp.where(self.bad_steps < 0, first_bad, self.bad_steps),
        )


def empty_accumulator(names: tuple[str, ...]) -> Accumulator:
    """Zero sums of these metrics."""
    n = len(names)
    return Accumulator(names, jnp.zeros(n), jnp.zeros((), jnp.int32), jnp.full(n, -1, jnp.int32))
