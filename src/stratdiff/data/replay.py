"""The online replay buffer D_on: arrays on the device, filled in order, oldest first out."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from stratdiff.data.batch import Transition


class Replay(eqx.Module):
    """Ring buffer of transitions and of what the score stores with each."""

    data: Transition
    stored: PyTree
    """What the score computed when the transition was stored, leading axis the capacity."""
    inserted: Int[Array, ""]
    """Transitions ever stored."""

    @property
    def capacity(self) -> int:
        """Rows that the buffer can hold."""
        return self.data.reward.shape[0]

    @property
    def size(self) -> Int[Array, ""]:
        """Rows that hold a transition."""
        return jnp.minimum(self.inserted, self.capacity)

    def insert(self, transition: Transition, stored: PyTree) -> "Replay":
        """Store one transition, over the oldest one where the buffer is full."""
        row = self.inserted % self.capacity
        whole, new = (self.data, self.stored), (transition, stored)
        data, kept = jax.tree.map(lambda w, n: w.at[row].set(n), whole, new)
        return Replay(data, kept, self.inserted + 1)

    def take(self, row: Int[Array, " batch"]) -> Transition:
        """The transitions of these rows, each with the action that followed, where one did."""
        later = (row + 1) % self.capacity
        data = jax.tree.map(lambda x: x[row], self.data)
        # A new episode starts elsewhere, and behind the newest row is the oldest one.
        goes_on = (data.next_obs == self.data.obs[later]).all(-1)
        goes_on &= later != self.inserted % self.capacity
        return data._replace(
            next_action=jnp.where(goes_on[:, None], self.data.action[later], jnp.nan)
        )

    def finish_episode(
        self,
        length: Int[Array, ""],
        discount: float,
        horizon: int,
        failure_reward: float | None = None,
    ) -> "Replay":
        """Fill in the returns-to-go of the last `length` transitions, a whole episode.

        `horizon` bounds `length` (static). With `failure_reward` (AntMaze), an episode without any
        higher reward gets r / (1 - γ) at every step, as `returns_to_go` with `sparse` offline.
        """
        back = jnp.arange(min(horizon, self.capacity))
        rows = (self.inserted - 1 - back) % self.capacity

        def step(
            value: Float[Array, ""], reward: Float[Array, ""]
        ) -> tuple[Float[Array, ""], Float[Array, ""]]:
            value = reward + discount * value
            return value, value

        rewards = self.data.reward[rows]
        _, returns = jax.lax.scan(step, jnp.zeros(()), rewards)
        if failure_reward is not None:
            success = ((rewards > failure_reward + 1e-4) & (back < length)).any()
            returns = jnp.where(success, returns, rewards / (1 - discount))
        old = self.data.mc_return
        new = old.at[rows].set(jnp.where(back < length, returns, old[rows]))
        return Replay(self.data._replace(mc_return=new), self.stored, self.inserted)


def empty_replay(capacity: int, obs_dim: int, action_dim: int, stored: PyTree) -> Replay:
    """A buffer with no transitions; `stored`: shapes of what is stored with one transition."""
    obs = jnp.zeros((capacity, obs_dim))
    terminal: Bool[Array, " capacity"] = jnp.zeros(capacity, bool)
    data = Transition(
        obs=obs,
        action=jnp.zeros((capacity, action_dim)),
        reward=jnp.zeros(capacity),
        next_obs=jnp.zeros_like(obs),
        terminal=terminal,
        mc_return=jnp.full(capacity, -jnp.inf),
    )
    kept = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), stored)
    return Replay(data, kept, jnp.zeros((), jnp.int32))
