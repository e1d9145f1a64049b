"""What every alignment score offers.

A score is a frozen description (options and sizes) whose methods are pure functions of its own
state. It says which phases it pre-trains, what it stores with a transition, how it scores a batch
and how it learns online. A new score is one file with a class that implements `Score`;
`Stateless` has what scores share that train nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from stratdiff.agents.base import Actor, Metrics
from stratdiff.data.batch import Batch
from stratdiff.options import NoOptions
from stratdiff.phases import Phase, StorePhase
from stratdiff.registry import Registry


class AgentView(NamedTuple):
    """What a score may ask of the agent as it is now."""

    q: Callable[[Float[Array, "batch obs"], Float[Array, "batch n act"]], Float[Array, "batch n"]]
    """Q̄ of several actions of each state in reference reward units; only differences count."""
    policy: Actor


@runtime_checkable
class Score(Protocol):
    """An alignment score, made by `cls(options, obs_dim, action_dim)`."""

    options: ClassVar[type]
    """Frozen dataclass of its options."""
    name: ClassVar[str]
    title: ClassVar[str]
    """How reports call it."""
    frozen: ClassVar[tuple[str, ...]]
    """Parts of its state that no online update changes."""

    def init(self, keys: Key[Array, "2"]) -> PyTree:
        """A fresh state."""
        ...

    def phases(self) -> tuple[Phase | StorePhase, ...]:
        """What is trained before the online phase, after the base agent.

        A phase's `update` takes ((score's state, `AgentView`), D_off, stored, key) and returns the
        new part, whose `part` is a path in the score's state.
        """
        ...

    def store(
        self, state: PyTree, obs: Float[Array, "rows obs"], keys: Key[Array, " rows"]
    ) -> PyTree:
        """What is kept with each transition from the state `obs`, leading axis the rows."""
        ...

    def prepare(self, state: PyTree, agent: AgentView, batch: Batch) -> PyTree:
        """The state with what it takes from a batch before scoring it."""
        ...

    def score(
        self, state: PyTree, agent: AgentView, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, " batch"]:
        """The score of every row; low: offline-like."""
        ...

    def normal(self, score: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """The scores on a scale on which those of rows of one origin are about normal."""
        ...

    def update(
        self, state: PyTree, agent: AgentView, batch: Batch, key: PRNGKeyArray
    ) -> tuple[PyTree, Metrics]:
        """The state after one online update."""
        ...


SCORES: Registry[Score] = Registry(
    "--score",
    {
        "none": "stratdiff.scores.none:NoScore",
        "random": "stratdiff.scores.random:Random",
        "origin": "stratdiff.scores.origin:Origin",
        "guided": "stratdiff.scores.guided:Guided",
        "support": "stratdiff.scores.support:Support",
        "likelihood": "stratdiff.scores.likelihood:Likelihood",
    },
    (
        "options",
        "name",
        "frozen",
        "init",
        "phases",
        "store",
        "prepare",
        "score",
        "normal",
        "update",
    ),
)


@dataclasses.dataclass(frozen=True)
class Stateless:
    """What scores share that train and store nothing."""

    config: Any
    obs_dim: int
    action_dim: int

    options: ClassVar[type] = NoOptions
    frozen: ClassVar[tuple[str, ...]] = ()

    def init(self, keys: Key[Array, "2"]) -> PyTree:
        """No state."""
        return ()

    def phases(self) -> tuple[Phase | StorePhase, ...]:
        """None."""
        return ()

    def store(
        self, state: PyTree, obs: Float[Array, "rows obs"], keys: Key[Array, " rows"]
    ) -> PyTree:
        """Nothing."""
        return ()

    def prepare(self, state: PyTree, agent: AgentView, batch: Batch) -> PyTree:
        """Nothing to take."""
        return state

    def normal(self, score: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """The scores themselves."""
        return score

    def update(
        self, state: PyTree, agent: AgentView, batch: Batch, key: PRNGKeyArray
    ) -> tuple[PyTree, Metrics]:
        """Nothing to learn."""
        return state, {}
