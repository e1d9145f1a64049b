"""A small scored batch, and an agent whose Q is known."""

import jax
import jax.numpy as jnp
import numpy as np

from stratdiff.data.batch import Batch, Transition
from stratdiff.diffusion.behaviour import BehaviourConfig
from stratdiff.scores.base import AgentView

OBS, ACT, BATCH, SUPPORT = 3, 2, 6, 4
BEHAVIOUR = BehaviourConfig(
    widths=(8, 4), solver_steps=3, precision="float32", support_actions=SUPPORT
)


def q_value(obs, actions):
    """Q(s, a) = 2 a_0 - s_1 a_1."""
    return 2 * actions[..., 0] - obs[..., None, 1] * actions[..., 1]


AGENT = AgentView(q=q_value, policy=None)


def make_batch(stored):
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(BATCH, OBS)), rng.uniform(-1, 1, (BATCH, ACT))
    transitions = Transition(
        obs=jnp.asarray(obs, jnp.float32),
        action=jnp.asarray(action, jnp.float32),
        reward=jnp.zeros(BATCH),
        next_obs=jnp.zeros((BATCH, OBS)),
        terminal=jnp.zeros(BATCH, bool),
        mc_return=jnp.zeros(BATCH),
    )
    return Batch(transitions, stored, jnp.arange(BATCH) >= 3)


def make_support():
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.uniform(-1, 1, (BATCH, SUPPORT, ACT)), jnp.float32)


def scaled(tree, factor):
    """Other weights of the same shapes."""
    return jax.tree.map(lambda x: factor * x, tree)
