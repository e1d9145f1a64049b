"""Off-policy evaluation: what the critic says of transitions that training never saw."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from stratdiff.data.device import DeviceData
from stratdiff.training.state import Setup

ROWS = 1024


def validate(
    setup: Setup, agent: PyTree, held_out: DeviceData
) -> dict[str, Float[Array, " seeds"]]:
    """Means over held-out transitions, one value a seed, in training reward units.

    `validation_q`: Q̄(s, a) of the logged action. `validation_td_error`: square of
    r + γ Q̄(s', π(s')) - Q̄(s, a), where π is the deterministic policy.
    `validation_advantage`: Q̄(s, π(s)) - Q̄(s, a). `agent` is the agent's state with the seeds as
    leading axis.
    """
    total: dict[str, Float[Array, " seeds"]] = {}
    for first in range(0, len(held_out), ROWS):
        part = _sums(setup, agent, held_out, jnp.asarray(first))
        total = {name: total.get(name, 0.0) + value for name, value in part.items()}
    return {f"validation_{name}": value / len(held_out) for name, value in total.items()}


@functools.partial(jax.jit, static_argnums=0)
def _sums(
    setup: Setup, agent: PyTree, held_out: DeviceData, first: Int[Array, ""]
) -> dict[str, Float[Array, " seeds"]]:
    algorithm = setup.algorithm.agent
    index = first + jnp.arange(ROWS)
    there = index < len(held_out)
    batch = held_out.take(jnp.minimum(index, len(held_out) - 1))

    def one(agent: PyTree) -> dict[str, Float[Array, ""]]:
        policy = algorithm.policy(agent)
        q = algorithm.q(agent, batch.obs, batch.action)
        after = algorithm.q(agent, batch.next_obs, policy.mode(batch.next_obs))
        target = batch.reward + algorithm.discount * jnp.where(batch.terminal, 0.0, after)
        own = algorithm.q(agent, batch.obs, policy.mode(batch.obs))
        found = {"q": q, "td_error": jnp.square(target - q), "advantage": own - q}
        return {name: jnp.where(there, value, 0.0).sum() for name, value in found.items()}

    return eqx.filter_vmap(one)(agent)
