"""StratDiff on one page: a base agent, an alignment score and a split rule (arXiv 2511.03828).

Pre-training runs `phases` in order. Online, `update` scores every row of a batch by how much its
action looks like what the energy-guided behaviour policy would do, splits the batch by that score,
and gives the conservative loss to the offline-like rows and the plain one to the others.
docs/method.md states the method in full.
"""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from stratdiff.agents.base import Agent, Metrics, offline_options
from stratdiff.data.batch import Batch, Transition
from stratdiff.data.device import DeviceData
from stratdiff.nn import Precision, isolated, products
from stratdiff.phases import Phase, StorePhase
from stratdiff.scores.base import AgentView, Score
from stratdiff.splits import Split


class State(eqx.Module):
    """All that learns."""

    agent: PyTree
    score: PyTree
    split: PyTree


class Keys(NamedTuple):
    """The random keys of one online update."""

    score: PRNGKeyArray
    score_update: PRNGKeyArray
    agent: PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class StratDiff:
    """The algorithm. Its methods are pure functions; everything it knows is static."""

    agent: Agent
    score: Score
    split: Split
    batch_size: int = 256
    """Transitions of an offline update of the agent."""
    q_divisor: float = 1.0
    """Q in the agent's training units / q_divisor is in reference reward units."""
    precision: Precision = "float32"
    """Of the matrix products in updates; scores are computed in full."""

    def init(self, key: PRNGKeyArray) -> State:
        """A fresh state."""
        keys = jax.random.split(key, 3)
        return State(self.agent.init(keys[0]), self.score.init(keys[1:]), self.split.init())

    def phases(self) -> tuple[Phase | StorePhase, ...]:
        """Pre-training: the base agent (docs/method.md, section 6), then what the score needs.

        With the paper's score those are the behaviour model (section 1), support actions and the
        energy model (section 2). A phase's `update` takes (state, D_off, stored, key).
        """

        def base(
            state: State, data: DeviceData, stored: PyTree, key: PRNGKeyArray
        ) -> tuple[PyTree, Metrics]:
            batch_key, key = jax.random.split(key)
            batch = data.take(data.sample_index(batch_key, self.batch_size))
            with products(self.precision):
                return self.agent.update(state.agent, batch, key, self.batch_size)

        def of_score(phase: Phase) -> Phase:
            def update(
                state: State, data: DeviceData, stored: PyTree, key: PRNGKeyArray
            ) -> tuple[PyTree, Metrics]:
                with products(self.precision):
                    return phase.update((state.score, self.view(state)), data, stored, key)

            return dataclasses.replace(phase, update=update, part=f"score.{phase.part}")

        reads = (
            *("base", "offline_steps", "batch_size", "reward_scale"),
            *("offline_eval_interval", "eval_episodes"),
            *offline_options(self.agent),
        )
        first = Phase("base", self.agent.offline_steps, base, "agent", reads, acts=True)
        more = (of_score(p) if isinstance(p, Phase) else p for p in self.score.phases())
        return first, *more

    def update(self, state: State, batch: Batch, keys: Keys) -> tuple[State, Metrics]:
        """One stratified online update; the rows of `batch` are in any order.

        Score and energy model see the agent as it was before the update.
        """
        agent = self.view(state)
        # 1. Score every row; low: it looks like the energy-guided behaviour policy (section 4).
        prepared = self.score.prepare(state.score, agent, batch)
        score = self.score.score(prepared, agent, batch, keys.score)
        # 2. Split the batch: conservative rows first (section 5).
        split, rows, metrics = self.split(state.split, score, batch.online)
        # 3. The score learns too: the energy model follows the current Q (section 2).
        with products(self.precision):
            learned, more = self.score.update(prepared, agent, batch, keys.score_update)
        # 4. Conservative loss on the first rows, plain online loss on the others (section 6).
        ordered = jax.tree.map(lambda x: x[rows.order], batch.transitions)

        def learn(key: PRNGKeyArray, agent: PyTree, batch: Transition) -> tuple[PyTree, Metrics]:
            with products(self.precision):
                return self.agent.update(agent, batch, key, rows.conservative)

        new, losses = isolated(learn, keys.agent, state.agent, ordered)
        return State(new, learned, split), metrics | more | losses

    def view(self, state: State) -> AgentView:
        """What the score may ask of the agent; Q of the same arrays is computed once."""
        known: list[tuple[Any, Any, Any]] = []

        def q(obs: Any, actions: Any) -> Any:
            for o, a, value in known:
                if o is obs and a is actions:
                    return value
            with products("float32"):  # also where an update asks
                value = self.agent.support_q(state.agent, obs, actions) / self.q_divisor
            known.append((obs, actions, value))
            return value

        return AgentView(q, self.agent.policy(state.agent))
