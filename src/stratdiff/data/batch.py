"""What a learner sees of the steps of an environment."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, PyTree


class Transition(NamedTuple):
    """A batch of transitions. States are normalised, rewards in training units."""

    obs: Float[Array, "*batch obs"]
    action: Float[Array, "*batch act"]
    reward: Float[Array, "*batch"]
    next_obs: Float[Array, "*batch obs"]
    terminal: Bool[Array, "*batch"]
    """True where the environment really ended; a time limit is not an end."""
    mc_return: Float[Array, "*batch"]
    """Discounted return-to-go of the trajectory, V_ref of Cal-QL; -inf where unknown."""
    next_action: Float[Array, "*batch act"] | None = None
    """The action that the trajectory took in `next_obs`, NaN where unknown. A replay buffer does
    not store it: None in what goes into one."""


class Batch(NamedTuple):
    """An online batch: transitions of D_off and D_on, and what is known of each."""

    transitions: Transition
    stored: PyTree
    """What the score keeps with each transition (`Score.store`), leading axis the batch."""
    online: Bool[Array, " batch"]
    """True where the transition is from D_on."""
