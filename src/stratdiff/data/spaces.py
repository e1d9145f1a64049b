"""Action spaces of Gymnasium: what can be stored, and scaling to [-1, 1]."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from stratdiff.errors import UserError


def unit_actions(actions: np.ndarray, space: Box) -> np.ndarray:
    """Actions (..., A) within the bounds of `space`, scaled to [-1, 1], as float32."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if (low == -1).all() and (high == 1).all():
        return actions.astype(np.float32)
    return (2 * (actions.astype(np.float64) - low) / (high - low) - 1).astype(np.float32)


def check_action_space(space: gymnasium.Space, where: str) -> Box:
    """The space, if it is a flat Box with finite bounds.

    Raises:
        UserError: it is not.
    """
    if not isinstance(space, Box) or len(space.shape) != 1 or space.dtype.kind != "f":
        raise UserError(
            f"{where} has the action space {space}; a flat Box of real numbers is needed, so "
            "choose one with continuous actions."
        )
    if not (np.isfinite(space.low) & np.isfinite(space.high) & (space.low < space.high)).all():
        raise UserError(
            f"{where} has the action space {space}; bounds that are finite and not equal are "
            "needed to scale actions to [-1, 1], so give the environment such bounds."
        )
    return space
