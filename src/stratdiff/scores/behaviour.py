"""What scores share that draw actions from the diffusion model of the behaviour policy."""

import dataclasses
import functools
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from stratdiff.data.device import DeviceData
from stratdiff.diffusion.behaviour import BehaviourConfig, BehaviourModel, BehaviourState
from stratdiff.options import Steps
from stratdiff.phases import Metrics, Phase, StorePhase
from stratdiff.scores.base import AgentView, Stateless


@dataclasses.dataclass(frozen=True)
class BehaviourOptions:
    """Of scores that draw actions from the behaviour policy."""

    behaviour_steps: Steps = 600_000
    """Updates of the behaviour diffusion model."""
    behaviour: BehaviourConfig = dataclasses.field(default_factory=BehaviourConfig)


class Models(eqx.Module):
    """The state of such a score: the models that it has trained."""

    behaviour: BehaviourState
    energy: PyTree = ()
    guidance: PyTree = ()
    """The guidance scale where it is found, a `guidance.Smoothed`."""


@dataclasses.dataclass(frozen=True)
class BehaviourScore(Stateless):
    """The behaviour model, its phases, and support actions drawn from it."""

    options: ClassVar[type] = BehaviourOptions
    frozen: ClassVar[tuple[str, ...]] = ("behaviour",)

    @functools.cached_property
    def model(self) -> BehaviourModel:
        """The behaviour model μ(a|s)."""
        return BehaviourModel(self.config.behaviour, self.obs_dim, self.action_dim)

    def init(self, keys: Key[Array, "2"]) -> Models:
        """Fresh models."""
        return Models(self.model.init(keys[0]))

    def phases(self) -> tuple[Phase | StorePhase, ...]:
        """The behaviour model, then support actions of every transition of D_off."""
        return self.behaviour_phase(), self.support_phase()

    def store(
        self, state: Models, obs: Float[Array, "rows obs"], keys: Key[Array, " rows"]
    ) -> PyTree:
        """Support actions [rows, M, act]; μ is frozen, so those of a state never change."""
        return self.model.support(state.behaviour, obs, keys)

    def behaviour_phase(self) -> Phase:
        """Score matching on D_off."""

        def update(
            state: tuple[Models, AgentView], data: DeviceData, stored: Any, key: PRNGKeyArray
        ) -> tuple[BehaviourState, Metrics]:
            batch_key, key = jax.random.split(key)
            row = data.sample_rows(batch_key, self.config.behaviour.batch_size)
            return self.model.update(state[0].behaviour, data.states(row), data.action[row], key)

        trained = ("widths", "learning_rate", "batch_size", "ema")
        reads = ("behaviour_steps", *(f"behaviour.{name}" for name in trained))
        return Phase("behaviour", self.config.behaviour_steps, update, "behaviour", reads)

    def support_phase(self) -> StorePhase:
        """Support actions of D_off."""
        sampling = ("solver_steps", "solver", "precision", "support_actions")
        return StorePhase(
            "support", tuple(f"behaviour.{name}" for name in sampling), ("behaviour",)
        )
