"""The paper's score: how far an action is from one drawn from the energy-guided behaviour policy.

See docs/method.md, sections 2 to 4.
"""

import dataclasses
import functools
from typing import ClassVar, Literal

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
from stratdiff.scores.behaviour import Models
from stratdiff.scores.guidance import GuidanceOptions, GuidanceScore, log_scale_for

# Standard deviation of the Gaussians around a and â. The order of a batch does not depend on it.
GUIDED_STD = 0.1
# Scores below this count as this much in a logarithm: a distance of 0.0014 between actions.
MIN_DISTANCE = 1e-4


def guided_alignment(
    action: Float[Array, "*batch act"], guided_action: Float[Array, "*batch act"]
) -> Float[Array, "*batch"]:
    """KL between Gaussians of variance σ_a² I around a and around â: ‖a - â‖² / (2σ_a²)."""
    return jnp.square(action - guided_action).sum(-1) / (2 * GUIDED_STD**2)


@dataclasses.dataclass(frozen=True)
class GuidedOptions(GuidanceOptions):
    """Of the score by one guided sample."""

    guidance: Literal["scaled", "exact"] = "scaled"
    """The energy model learns β Q and its gradient is scaled by w, or it learns w β Q itself."""
    energy_steps: Steps = 100_000
    """Offline updates of the energy model."""
    energy: EnergyConfig = dataclasses.field(default_factory=EnergyConfig)


@dataclasses.dataclass(frozen=True)
class Guided(GuidanceScore):
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
        return self.config.guidance_scale != 0

    @property
    def exact(self) -> bool:
        """Whether the energy model learns w β Q, which makes π_0 the exact target for every w."""
        return self.config.guidance == "exact"

    def init(self, keys: Key[Array, "2"]) -> Models:
        """Fresh models."""
        models = super().init(keys)
        energy = self.energy.init(keys[1]) if self.steered else ()
        return Models(models.behaviour, energy, models.guidance)

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
            beta_q = self.beta_q(agent, obs, support)
            if self.exact and self.automatic:  # no online batch has told the scale yet
                beta_q *= jnp.exp(log_scale_for(beta_q, self.config.guidance_information)[0])
            elif self.exact:
                beta_q *= self.scale(models)
            return self.energy.update(models.energy, obs, support, beta_q, key)

        reads = ("energy", "energy_steps", "inverse_temperature", "guidance")
        scale = ("guidance_scale", "guidance_information") if self.exact else ()
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
            scale = 1.0 if self.exact else self.scale(state)
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
        state, found = super().update(state, agent, batch, key)
        beta_q = self.beta_q(agent, obs, batch.stored)
        if self.exact:
            beta_q *= self.scale(state)
        energy, metrics = self.energy.update(state.energy, obs, batch.stored, beta_q, key)
        return Models(state.behaviour, energy, state.guidance), metrics | found

    def normal(self, score: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """Their logarithms: they are squared distances."""
        return jnp.log(jnp.maximum(score, MIN_DISTANCE))
