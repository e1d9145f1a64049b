"""D4RL's AntMaze recipe: the way through a maze, and what the walking ant sees and does.

The ant sees the world turned so that the waypoint lies along +x, and itself turned by the quarter
that brings its front nearest to it: the ant has four equal legs, so neither loses anything, and it
has to learn to walk in one direction only.
"""

from collections import deque

import numpy as np
from jaxtyping import Float, Int

from stratdiff.envs.mazes import CELL, cell_xy, walls, xy_cell

# Signs that make all ankles bend the same way; legs in joint order.
_BEND = np.array([1.0, -1.0, -1.0, 1.0])
FEATURES = 32


class Navigator:
    """The next waypoint of every ant on a shortest way through the cells of a maze."""

    def __init__(self, maze: str) -> None:
        self.maze, self._walls = maze, walls(maze)
        self._next: dict[tuple[int, int], np.ndarray] = {}

    def next_cell(self, goal: tuple[int, int]) -> Int[np.ndarray, "rows cols 2"]:
        """From every cell, the next one on the way to `goal`; the goal leads to itself."""
        if goal not in self._next:
            table = np.full((*self._walls.shape, 2), -1)
            table[goal] = goal
            queue = deque([goal])
            while queue:
                cell = queue.popleft()
                for step in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                    other = (cell[0] + step[0], cell[1] + step[1])
                    if not (0 <= other[0] < table.shape[0] and 0 <= other[1] < table.shape[1]):
                        continue
                    if table[other][0] < 0:
                        table[other] = cell
                        # A wall cell leads to its neighbour: a torso can hang over its edge.
                        if not self._walls[other]:
                            queue.append(other)
            self._next[goal] = table
        return self._next[goal]

    def waypoints(
        self, xy: Float[np.ndarray, "n 2"], goal: Float[np.ndarray, "n 2"], noise: np.ndarray
    ) -> Float[np.ndarray, "n 2"]:
        """The goal in its own cell, else a point of the next cell; noise [n, 2] is U(0, 1)."""
        here, end = xy_cell(self.maze, xy), xy_cell(self.maze, goal)
        limit = np.array(self._walls.shape) - 1
        here = np.clip(here, 0, limit)
        ahead = np.stack(
            [self.next_cell((r, c))[tuple(h)] for h, (r, c) in zip(here, end.tolist(), strict=True)]
        )
        inside = (here == end).all(1)[:, None]
        return np.where(inside, goal, cell_xy(self.maze, ahead) + 0.25 * CELL * noise)


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """Body-to-world matrices [n, 3, 3] of quaternions [n, 4]."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
            np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
            np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
        ],
        1,
    )


def _about_z(angle: np.ndarray) -> np.ndarray:
    """Rotations [n, 3, 3] by angles [n] about the vertical."""
    cos, sin, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    rows = [[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]]
    return np.stack([np.stack(row, -1) for row in rows], 1)


def features(
    state: Float[np.ndarray, "n 29"], direction: Float[np.ndarray, "n 2"]
) -> tuple[Float[np.ndarray, "n 32"], Int[np.ndarray, " n"]]:
    """(what the walking policy sees, the quarter turns that were made of the body).

    In the frame of the waypoint: height, rotation matrix, hip and ankle of each leg, linear
    velocity; in the body's frame the angular velocity; joint velocities.
    """
    world = _about_z(-np.arctan2(direction[:, 1], direction[:, 0]))
    rotation = world @ _rotation(state[:, 3:7])
    ahead = rotation[:, 0, :2]
    quarter = np.concatenate([ahead, -ahead], 1).argmax(1)
    turn = _about_z(quarter * (np.pi / 2))
    rotation = rotation @ turn
    velocity = (world @ state[:, 15:18, None])[..., 0]
    spin = (turn.transpose(0, 2, 1) @ state[:, 18:21, None])[..., 0]
    legs = (np.arange(4) + quarter[:, None]) % 4
    rows = np.arange(len(state))[:, None]

    def joints(values: np.ndarray) -> np.ndarray:
        values = values.reshape(-1, 4, 2) * np.stack([np.ones(4), _BEND], -1)
        return values[rows, legs].reshape(-1, 8)

    seen = [state[:, 2:3], rotation.reshape(-1, 9), joints(state[:, 7:15]), velocity, spin]
    return np.concatenate([*seen, joints(state[:, 21:29])], 1), quarter


def actions(
    moves: Float[np.ndarray, "n 8"], quarter: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n 8"]:
    """The environment's actions of the policy's moves (hip and ankle of each leg as it sees them).

    The environment's motors start with leg 4.
    """
    legs = (np.arange(4) - quarter[:, None]) % 4
    own = moves.reshape(-1, 4, 2)[np.arange(len(moves))[:, None], legs]
    own = own * np.stack([np.ones(4), _BEND], -1)
    return np.roll(own, 1, axis=1).reshape(-1, 8)
