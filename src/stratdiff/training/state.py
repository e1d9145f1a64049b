"""The training state: one pytree with everything that changes, and what is static beside it.

Every array of the state has a leading axis over seeds. Randomness is a pure function of (seed,
purpose, step), so there is no generator state to lose: see `stream`.
"""

import dataclasses
import zlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from stratdiff.algorithm import State, StratDiff
from stratdiff.data.replay import Replay, empty_replay
from stratdiff.nn import stack

# Purposes that draw random numbers; others have a number made of their name.
_PURPOSES = (
    *("init", "base", "behaviour", "support", "energy", "batch", "agent", "score"),
    *("score_update", "store", "act"),
)


def stream(seed: Int[Array, ""], purpose: str, step: Int[Array, ""] | int = 0) -> PRNGKeyArray:
    """The random key of one purpose at one step of one seed."""
    known = purpose in _PURPOSES
    number = _PURPOSES.index(purpose) if known else zlib.crc32(purpose.encode()) | 1 << 31
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), step)


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


class TrainState(eqx.Module):
    """All that changes during training."""

    seed: Int[Array, "*seeds"]
    learned: State
    replay: Replay
    obs: Float[Array, "*seeds obs"]
    """The normalised state that `action` was chosen in."""
    action: Float[Array, "*seeds act"]
    """The action to take in the next environment step."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is static in a run, beside the algorithm. Hashable: compiled functions close on it."""

    algorithm: StratDiff
    obs_dim: int
    action_dim: int
    batch_size: int
    """Transitions of an online batch."""
    offline_rows: tuple[int, int] | None
    """How many of them are from D_off, at the first and at the last step; None: as many as fall to
    it where all rows of D_off and D_on are equally likely."""
    warmup: int
    """Online transitions before batches hold any of them."""
    utd: int
    """Updates per environment step."""
    frozen: int
    """Environment steps at the start in which nothing is learned."""
    capacity: int
    """Transitions that the replay buffer holds."""
    horizon: int
    """Longest episode that the replay buffer has to look back on."""
    failure_reward: float | None
    """Training reward of every step of an episode that missed a sparse goal; None: not sparse."""

    def init(self, seeds: tuple[int, ...]) -> TrainState:
        """The state of these seeds before any training."""
        return stack([self._init_one(seed) for seed in seeds])

    def shapes(self) -> TrainState:
        """Shapes and types of one seed's state; nothing is allocated."""
        state: TrainState = jax.eval_shape(lambda: self._init_one(0))
        return state

    def _init_one(self, seed: int) -> TrainState:
        number = jnp.asarray(seed, jnp.int32)
        learned = self.algorithm.init(stream(number, "init"))
        return TrainState(
            seed=number,
            learned=learned,
            replay=empty_replay(
                self.capacity, self.obs_dim, self.action_dim, self.stored_shapes(learned)
            ),
            obs=jnp.zeros(self.obs_dim),
            action=jnp.zeros(self.action_dim),
        )

    def stored_shapes(self, learned: State) -> PyTree:
        """Shapes and types of what the score stores with one transition of one seed."""
        store, obs = self.algorithm.score.store, jax.ShapeDtypeStruct((1, self.obs_dim), np.float32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
        rows = jax.eval_shape(store, learned.score, obs, keys)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows)


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

    def bad_losses(self, seeds: tuple[int, ...]) -> list[tuple[int, str, int]]:
        """(step, loss, seed) where a loss stopped being finite."""
        return [
            (int(step), name, seed)
            for name, steps in self.bad_step.items()
            if name.endswith("_loss")
            for seed, step in zip(seeds, steps, strict=True)
            if step >= 0
        ]

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
