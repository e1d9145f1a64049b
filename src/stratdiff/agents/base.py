"""What every base algorithm offers, and what they share.

A base is a frozen description (options and sizes) whose methods are pure functions of its state.
Its critic losses are per sample and take which rows are *conservative*: pre-training and plain
fine-tuning say all of them, StratDiff the offline-like ones. A new base is one file with a class
that implements `Agent`; `ActorCritic` has what most of them share.
"""

import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from stratdiff.agents.networks import numpy_policy
from stratdiff.data.batch import Transition
from stratdiff.data.dataset import Dataset
from stratdiff.errors import UserError
from stratdiff.policy import Policy
from stratdiff.registry import Registry

Metrics = dict[str, Float[Array, ""]]
# How many of a batch's first rows are conservative: a number, so that conservative terms are
# computed on those rows only, or an array where it depends on the data.
Conservative = int | Int[Array, ""]


@runtime_checkable
class Actor(Protocol):
    """A stochastic policy on normalised states, actions in [-1, 1]."""

    def mode(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """The deterministic action."""
        ...

    def sample(
        self, obs: Float[Array, "*batch obs"], key: PRNGKeyArray
    ) -> Float[Array, "*batch act"]:
        """One random action per state."""
        ...

    def log_prob(
        self, obs: Float[Array, "*batch obs"], action: Float[Array, "*batch act"]
    ) -> Float[Array, "*batch"]:
        """Log-density of an action in [-1, 1]."""
        ...


@dataclasses.dataclass(frozen=True)
class RewardUnits:
    """Training reward = scale · r + shift; Q in training units / q_divisor is in reference units.

    See docs/method.md, section 7, "Reward units".
    """

    scale: float
    shift: float
    q_divisor: float


@runtime_checkable
class Agent(Protocol):
    """A base algorithm, made by `cls(options, obs_dim, action_dim, offline_steps)`.

    `state` is all that it learns, a pytree of arrays.
    """

    options: ClassVar[type]
    """Frozen dataclass of its options; they stand under `name` in a config."""
    name: ClassVar[str]
    title: ClassVar[str]
    """How reports call it."""
    stratifies: ClassVar[bool]
    """Whether it has a conservative loss, so that a split changes anything."""
    online_options: ClassVar[tuple[str, ...]]
    """Options that pre-training does not read."""
    recipes: ClassVar[dict[str, dict[str, Any]]]
    """Other defaults of its options, by recipe."""
    offline_steps: int
    """Updates of its pre-training."""

    @property
    def discount(self) -> float:
        """Discount γ."""
        ...

    def init(self, key: PRNGKeyArray) -> Any:
        """A fresh state."""
        ...

    def update(
        self, state: Any, batch: Transition, key: PRNGKeyArray, conservative: Conservative
    ) -> tuple[Any, Metrics]:
        """One update on B transitions, the first `conservative` (0 to B) of them conservative."""
        ...

    def policy(self, state: Any) -> Actor:
        """The current policy."""
        ...

    def q(
        self,
        state: Any,
        obs: Float[Array, "*#batch obs"],
        action: Float[Array, "*batch act"],
    ) -> Float[Array, "*batch"]:
        """Q̄ = min_k Q̄_k of the target critics, in training units. `obs` broadcasts."""
        ...

    def support_q(
        self,
        state: Any,
        obs: Float[Array, "batch obs"],
        support: Float[Array, "batch support act"],
    ) -> Float[Array, "batch support"]:
        """Q̄ of several actions of each state, for a softmax over them: only differences count."""
        ...

    def reward_units(self, recipe: str, scale: float) -> RewardUnits:
        """Units that it trains in; `scale`: the data's factor, of the locomotion recipe."""
        ...

    def check_data(self, dataset: Dataset) -> None:
        """Raise `UserError` where the algorithm cannot learn from this data set."""
        ...

    def export(
        self,
        state: Any,
        obs_mean: Float[np.ndarray, " obs"],
        obs_std: Float[np.ndarray, " obs"],
        about: dict[str, Any],
    ) -> Policy:
        """The NumPy policies of a state whose arrays have the seeds as leading axis."""
        ...


AGENTS: Registry[Agent] = Registry(
    "--base",
    {
        "iql": "stratdiff.agents.iql:IQL",
        "calql": "stratdiff.agents.calql:CalQL",
        "sac": "stratdiff.agents.sac:SAC",
        "rebrac": "stratdiff.agents.rebrac:ReBRAC",
    },
    ("options", "name", "init", "update", "policy", "support_q", "export"),
)


def offline_options(agent: Agent | type[Agent]) -> list[str]:
    """The base's own options that its pre-training reads, as "name.option"."""
    own = {field.name for field in dataclasses.fields(agent.options)}
    return [f"{agent.name}.{name}" for name in sorted(own - {*agent.online_options})]


@dataclasses.dataclass(frozen=True)
class ActorCritic:
    """What bases share whose state has `actor` (`networks.numpy_policy`) and `target_critic`."""

    config: Any
    obs_dim: int
    action_dim: int
    offline_steps: int = 0
    """Updates of the pre-training, for schedules."""

    stratifies: ClassVar[bool] = True
    online_options: ClassVar[tuple[str, ...]] = ()
    recipes: ClassVar[dict[str, dict[str, Any]]] = {}

    @property
    def discount(self) -> float:
        """Discount γ."""
        return self.config.discount

    def policy(self, state: Any) -> Any:
        """The current policy."""
        return state.actor

    def q(
        self,
        state: Any,
        obs: Float[Array, "*#batch obs"],
        action: Float[Array, "*batch act"],
    ) -> Float[Array, "*batch"]:
        """Q̄ = min_k Q̄_k of the target critics. `obs` broadcasts."""
        return state.target_critic(obs, action).min(0)

    def support_q(
        self,
        state: Any,
        obs: Float[Array, "batch obs"],
        support: Float[Array, "batch support act"],
    ) -> Float[Array, "batch support"]:
        """Q̄ of several actions of each state, for a softmax over them: only differences count."""
        return state.target_critic.for_actions(obs, support).min(0)

    def reward_units(self, recipe: str, scale: float) -> RewardUnits:
        """The suite's reference units: r - 1 for sparse goals, else scaled returns."""
        sparse = recipe == "antmaze"
        return RewardUnits(1.0, -1.0, 1.0) if sparse else RewardUnits(scale, 0.0, 1.0)

    def check_data(self, dataset: Dataset) -> None:
        """Any data set will do."""

    def export(
        self,
        state: Any,
        obs_mean: Float[np.ndarray, " obs"],
        obs_std: Float[np.ndarray, " obs"],
        about: dict[str, Any],
    ) -> Policy:
        """The NumPy policies of a state whose arrays have the seeds as leading axis."""
        policy = jax.tree.map(np.asarray, self.policy(state))
        return numpy_policy(policy, obs_mean, obs_std, about)


def conservative_rows(conservative: Conservative, batch: int) -> Bool[Array, " batch"]:
    """Which rows of a batch are conservative."""
    return jnp.arange(batch) < conservative


def check_ensemble(name: str, critics: int, target_critics: int) -> None:
    """Raise `UserError` where the target takes more critics than there are."""
    if target_critics > critics:
        raise UserError(
            f"--{name}.target-critics is {target_critics}; it must be at most --{name}.critics, "
            f"{critics}."
        )


def subset(
    q: Float[Array, "critics *batch"], size: int, key: PRNGKeyArray
) -> Float[Array, "members *batch"]:
    """`size` random members of an ensemble (REDQ, arXiv 2101.05982); all of them where they fit."""
    return q if size >= len(q) else q[jax.random.permutation(key, len(q))[:size]]


def td_target(
    reward: Float[Array, "*batch"],
    discount: float,
    terminal: Float[Array, "*batch"],
    next_value: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """y = r + γ (1 - d) V(s'), a constant for gradients."""
    return jax.lax.stop_gradient(reward + discount * (1 - terminal) * next_value)


def td_error(
    q: Float[Array, "critics *batch"], target: Float[Array, "*#batch"]
) -> Float[Array, "*batch"]:
    """Σ_k (Q_k(s, a) - y)² per sample."""
    return jnp.square(q - target).sum(0)


def soft_actor_loss(
    log_prob: Float[Array, "*batch"], value: Float[Array, "*batch"], temperature: Float[Array, ""]
) -> Float[Array, "*batch"]:
    """α_ent log π(a|s) - Q(s, a) per sample, with a ~ π reparametrised (SAC, eq. 7)."""
    return temperature * log_prob - value


def temperature_gradient(mean_log_prob: Float[Array, ""], size: float | int) -> Float[Array, ""]:
    """Gradient by log α_ent of -log α_ent (E[log π] + H), target entropy H = -`size`."""
    return -(mean_log_prob - size)


def polyak(target: PyTree, online: PyTree, rate: float) -> PyTree:
    """Move the target weights towards the online ones: (1 - τ) target + τ online."""
    return jax.tree.map(lambda t, w: (1 - rate) * t + rate * w, target, online)


def mean_over_batch(values: Float[Array, " rows"], batch: int | Int[Array, ""]) -> Float[Array, ""]:
    """Sum of some rows' values over the size of the whole batch.

    Both strata keep the 1/B of the batch, so no sample's weight depends on ρ (docs/method.md,
    section 6).
    """
    return jnp.sum(values) / batch
