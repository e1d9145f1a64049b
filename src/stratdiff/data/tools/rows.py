"""What the rows of a data file say by themselves, without a simulator."""

import numpy as np
from jaxtyping import Float

# Rows of a file in time order move by less than this part of the distance of random rows.
_IN_ORDER = 0.7


def shuffled(obs: np.ndarray, seed: int) -> bool:
    """No dimension of the next row is nearer to a row's than a random row's is."""
    obs = obs[:100_000]
    other = np.random.default_rng(seed).permutation(obs)
    step = np.median(np.abs(np.diff(obs, axis=0)), 0)
    apart = np.median(np.abs(obs - other), 0)
    moving = apart > 0
    return len(obs) > 20 and bool(moving.any() and (step > _IN_ORDER * apart)[moving].all())


def jumps(obs: np.ndarray) -> Float[np.ndarray, " steps"]:
    """How far the next row is: largest of all dimensions, in its median step."""
    step = np.abs(np.diff(obs, axis=0))
    typical = np.median(step, 0) if len(step) else np.ones(obs.shape[1])
    moving = typical > 0
    if not moving.any():
        return np.zeros(len(step))
    return (step[:, moving] / typical[moving]).max(1).astype(np.float64)


def duplicates(*arrays: np.ndarray) -> int:
    """Rows equal to an earlier one. By a 64-bit hash: a million rows in a fraction of a second."""
    rng, total = np.random.default_rng(0), np.zeros(len(arrays[0]), np.uint64)
    for array in arrays:
        words = array.reshape(len(array), -1).view(np.uint32)
        for column in words.T:
            total += (column.astype(np.uint64) + np.uint64(1)) * rng.integers(
                2**63, dtype=np.uint64
            )
            total ^= total >> np.uint64(29)
            total *= np.uint64(0xBF58476D1CE4E5B9)
    return len(total) - len(np.unique(total))


def dead(array: np.ndarray) -> tuple[int, ...]:
    """Dimensions that never change."""
    return tuple(np.flatnonzero(array.max(0) == array.min(0)).tolist())
