"""D_off on the device, in the units that an agent trains in."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from stratdiff.cpu import aligned_empty
from stratdiff.data.batch import Transition
from stratdiff.data.dataset import Dataset, returns_to_go


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

    def __len__(self) -> int:
        return len(self.rows)

    def sample_index(self, key: PRNGKeyArray, n: int) -> Int[Array, " n"]:
        """`n` uniformly random transitions, as numbers 0 to N - 1."""
        return jax.random.randint(key, (n,), 0, len(self.rows))

    def sample_rows(self, key: PRNGKeyArray, n: int) -> Int[Array, " n"]:
        """`n` uniformly random transitions, as rows of the file."""
        return self.rows[self.sample_index(key, n)]

    def states(self, row: Int[Array, "*batch"]) -> Float[Array, "*batch obs"]:
        """The normalised states of these rows of the file."""
        # Not a division: the compiler makes this of it, or does not, by the number of seeds.
        return (self.obs[row] - self.mean) * (1 / self.std)

    def take(self, index: Int[Array, " batch"]) -> Transition:
        """The transitions of these numbers, 0 to N - 1."""
        row = self.rows[index]
        # A row that is no transition has the action of a step that the rule drops, or zeros where
        # a reader added the row for its state.
        later = self.action[row + 1]
        stepped = self.rows[jnp.minimum(index + 1, len(self) - 1)] == row + 1
        stepped |= (later != 0).any(-1)
        return Transition(
            obs=self.states(row),
            action=self.action[row],
            reward=self.reward[row],
            next_obs=self.states(row + 1),
            terminal=self.terminal[row],
            mc_return=self.mc_return[row],
            next_action=jnp.where(stepped[:, None], later, jnp.nan),
        )


def to_device(
    dataset: Dataset,
    scale: float,
    shift: float,
    discount: float,
    sparse: bool,
    normalize: bool = True,
) -> DeviceData:
    """States and what they are normalised with, rewards scale · r + shift, their returns-to-go.

    `sparse`: a trajectory without any positive reward gets r / (1 - γ) as its return-to-go.
    Without `normalize` states stay as they are.
    """
    size = dataset.observations.shape[1]
    plain = np.zeros(size, np.float32), np.ones(size, np.float32)
    mean, std = dataset.normalizer() if normalize else plain
    rewards = aligned_empty(dataset.rewards.shape, np.float32)
    np.multiply(dataset.rewards, scale, out=rewards, dtype=np.float64, casting="same_kind")
    rewards += np.float32(shift)
    rewards[dataset.added] = 0  # no step was made there, so nothing is added to a return
    mc_return = returns_to_go(
        rewards, dataset.ends, discount, sparse, dataset.rewards > 0 if sparse else None
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
