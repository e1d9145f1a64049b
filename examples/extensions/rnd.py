"""Random network distillation as an alignment score (Burda et al. 2018, arXiv 1810.12894).

Put this folder on PYTHONPATH and name the class:

    stratdiff train --score rnd:RND --rnd.steps 20000

A network learns on D_off to predict what a fixed random network makes of a state and an action. Its
error is small for pairs like those of D_off, so that a low score is offline-like. SAC-RND measures
how far an action is from the data in this way (Nikulin et al. 2023, arXiv 2301.13616).
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from stratdiff.nn import MLP, apply_gradients, init_optimizer
from stratdiff.options import Count, Positive, Steps, Widths
from stratdiff.phases import Phase
from stratdiff.scores.base import Stateless


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Of the two networks."""

    steps: Steps = 20_000
    """Updates of the predicting network."""
    hidden: Widths = (256, 256)
    """Hidden layer widths of both networks."""
    features: Count = 32
    """Numbers that the random network makes of a state and an action."""
    learning_rate: Positive = 1e-4
    """Adam learning rate."""
    batch_size: Count = 256
    """Transitions per update."""


@dataclasses.dataclass(frozen=True)
class RNDOptions:
    """Of the score by random network distillation."""

    rnd: Distillation = dataclasses.field(default_factory=Distillation)


class Learner(eqx.Module):
    """What the phase trains."""

    net: MLP
    opt: optax.OptState


class RNDState(eqx.Module):
    """The predicting network with its optimiser, and the random one."""

    learner: Learner
    random: MLP


def error(net, random, obs, action):
    """‖f(s, a) - g(s, a)‖² per row [B], for networks f and g of states [B, S], actions [B, A]."""
    difference = net.split_input(obs, action) - random.split_input(obs, action)
    return jnp.square(difference).sum(-1)


@dataclasses.dataclass(frozen=True)
class RND(Stateless):
    """The `Score`: one phase after the base algorithm's; nothing is stored or learned online."""

    options = RNDOptions
    name = "rnd"
    title = "random network distillation"
    frozen = ("learner", "random")

    @functools.cached_property
    def optimizer(self):
        """Of the predicting network."""
        return optax.adam(self.config.rnd.learning_rate)

    def init(self, keys):
        """Two random networks."""
        c, size = self.config.rnd, self.obs_dim + self.action_dim
        net, random = (MLP(size, c.hidden, c.features, key, final_gain=1.0) for key in keys)
        return RNDState(Learner(net, init_optimizer(self.optimizer, net)), random)

    def phases(self):
        """Distillation on D_off. Its result depends on the options of `rnd` only."""

        def update(state, data, stored, key):
            learner, random = state[0].learner, state[0].random
            row = data.sample_rows(key, self.config.rnd.batch_size)
            obs, action = data.states(row), data.action[row]

            def loss(net):
                return error(net, random, obs, action).mean()

            value, grads = jax.value_and_grad(loss)(learner.net)
            net, opt = apply_gradients(self.optimizer, learner.net, grads, learner.opt)
            return Learner(net, opt), {"distillation_loss": value}

        return (Phase("rnd", self.config.rnd.steps, update, "learner", reads=("rnd",)),)

    def score(self, state, agent, batch, key):
        """The prediction error of every row."""
        rows = batch.transitions
        return error(state.learner.net, state.random, rows.obs, rows.action)
