"""The paper's score: how far an action is from one drawn from the energy-guided behaviour policy.

See docs/method.md, sections 2 to 4.
"""

import dataclasses
import functools
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from stratdiff.agents.base import Metrics
from stratdiff.data.batch import Batch
from stratdiff.data.device import DeviceData
from stratdiff.diffusion.energy import EnergyConfig, EnergyModel, EnergyState
from stratdiff.diffusion.sampler import guided
from stratdiff.options import Steps
from stratdiff.phases import Phase, StorePhase
from stratdiff.scores.base import AgentView
from stratdiff.scores.behaviour import BehaviourOptions, BehaviourScore, Models

# Standard deviation of the Gaussians around a and â. The order of a batch does not depend on it.
GUIDED_STD = 0.1


def guided_alignment(
    action: Float[Array, "*batch act"], guided_action: Float[Array, "*batch act"]
) -> Float[Array, "*batch"]:
    """KL between Gaussians of variance σ_a² I around a and around â: ‖a - â‖² / (2σ_a²)."""
    return jnp.square(action - guided_action).sum(-1) / (2 * GUIDED_STD**2)


@dataclasses.dataclass(frozen=True)
class GuidedOptions(BehaviourOptions):
    """Of the score by one guided sample."""

    guidance: Literal["scaled", "exact"] = "scaled"
    """The energy model learns β Q and its gradient is scaled by w, or it learns w β Q itself."""
    energy_steps: Steps = 100_000
    """Offline updates of the energy model."""
    energy: EnergyConfig = dataclasses.field(default_factory=EnergyConfig)


@dataclasses.dataclass(frozen=True)
class Guided(BehaviourScore):
    """‖a - â‖² / (2σ_a²), â drawn afresh at every update by the guided diffusion model.

    With w = 0 it draws from the behaviour policy itself, trains no energy model and stores nothing.
    """

    config: GuidedOptions

    options: ClassVar[type] = GuidedOptions
    name = "guided"
    title = "guided"

    @functools.cached_property
    def energy(self) -> EnergyModel:
        """The energy model f(s, a_t, t)."""
        return EnergyModel(self.config.energy, self.obs_dim, self.action_dim)

    @property
    def steered(self) -> bool:
        """Whether the energy model plays a part."""
        return self.config.guidance_scale > 0

    @property
    def exact(self) -> bool:
        """Whether the energy model learns w β Q, which makes π_0 the exact target for every w."""
        return self.config.guidance == "exact"

    def init(self, keys: Key[Array, "2"]) -> Models:
        """Fresh models."""
        energy = self.energy.init(keys[1]) if self.steered else ()
        return Models(self.model.init(keys[0]), energy)

    def phases(self) -> tuple[Phase | StorePhase, ...]:
        """Behaviour model, support actions, energy model."""
        if not self.steered:
            return (self.behaviour_phase(),)

        def update(
            state: tuple[Models, AgentView],
            data: DeviceData,
            stored: Float[Array, "n support act"],
            key: PRNGKeyArray,
        ) -> tuple[EnergyState, Metrics]:
            models, agent = state
            batch_key, key = jax.random.split(key)
            index = data.sample_index(batch_key, self.config.energy.batch_size)
            obs, support = data.states(data.rows[index]), stored[index]
            return self.energy.update(
                models.energy, obs, support, self._beta_q(agent, obs, support), key
            )

        reads = ("energy", "energy_steps", "inverse_temperature", "guidance")
        scale = ("guidance_scale",) if self.exact else ()
        after = ("base", "support")
        energy = Phase("energy", self.config.energy_steps, update, "energy", reads + scale, after)
        return self.behaviour_phase(), self.support_phase(), energy

    def store(
        self, state: Models, obs: Float[Array, "rows obs"], keys: Key[Array, " rows"]
    ) -> PyTree:
        """Support actions, which the energy model learns from online too."""
        return super().store(state, obs, keys) if self.steered else ()

    def score(
        self, state: Models, agent: AgentView, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, " batch"]:
        """Squared distance of each action from a guided one, over 2σ_a²."""
        obs, action = batch.transitions.obs, batch.transitions.action
        score = self.model.score(state.behaviour.ema, obs)
        if self.steered:
            net = self.model.for_sampling(state.energy.net)
            scale = 1.0 if self.exact else self.config.guidance_scale
            score = guided(score, lambda a, t: net(obs, a, t), scale)
        noise = jax.random.normal(key, action.shape)
        return guided_alignment(action, self.model.sample(score, noise))

    def update(
        self, state: Models, agent: AgentView, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Models, Metrics]:
        """One update of the energy model with the agent's current Q."""
        if not self.steered:
            return state, {}
        obs = batch.transitions.obs
        beta_q = self._beta_q(agent, obs, batch.stored)
        energy, metrics = self.energy.update(state.energy, obs, batch.stored, beta_q, key)
        return Models(state.behaviour, energy), metrics

    def _beta_q(self, agent: AgentView, obs: Any, support: Any) -> Float[Array, "batch support"]:
        temperature = self.config.inverse_temperature
        if self.exact:
            temperature *= self.config.guidance_scale
        return temperature * agent.q(obs, support)
