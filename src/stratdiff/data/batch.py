"""What a learner sees of one step of an environment."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float


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
