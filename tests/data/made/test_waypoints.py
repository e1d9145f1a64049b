"""The waypoint recipe: shortest ways, and an ant that sees the same from every side."""

import numpy as np
import pytest

from stratdiff.data.made.waypoints import Navigator, actions, features
from stratdiff.envs.antmaze import AntMaze
from stratdiff.envs.mazes import cell_xy, cells, walls


@pytest.mark.parametrize("maze", ["umaze", "medium", "large"])
def test_next_cells_make_shortest_ways(maze):
    # Every step is to a free neighbour and one nearer by Bellman-Ford's distances.
    free, way = ~walls(maze), Navigator(maze)
    goal = tuple(int(x) for x in cells(maze, "eG")[0])
    distance = np.where(free, np.inf, np.nan)
    distance[goal] = 0
    for _ in range(free.size):
        for r, c in np.argwhere(free):
            near = [distance[r + i, c + j] for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0))]
            distance[r, c] = np.nanmin([distance[r, c], np.nanmin(near) + 1])
    for r, c in np.argwhere(free):
        ahead = way.next_cell(goal)[r, c]
        if (r, c) == goal:
            assert tuple(ahead) == goal
        else:
            assert np.abs(ahead - [r, c]).sum() == 1
            assert distance[tuple(ahead)] == distance[r, c] - 1


def test_waypoints_by_hand():
    # U-maze: from the start the way leads right along row 1; in the goal's cell, to the goal.
    way, noise = Navigator("umaze"), np.array([[0.25, 0.5]])
    goal = np.array([[0.7, 8.9]])
    np.testing.assert_array_equal(way.waypoints(np.zeros((1, 2)), goal, noise), [[4.25, 0.5]])
    np.testing.assert_array_equal(way.waypoints(np.array([[8.0, 0.0]]), goal, noise), [[8.25, 4.5]])
    np.testing.assert_array_equal(way.waypoints(np.array([[1.0, 8.0]]), goal, noise), goal)
    # Over the edge of the wall below the start: back to the start's cell first.
    np.testing.assert_array_equal(
        way.waypoints(np.array([[0.0, 2.3]]), np.array([[8.0, 0.0]]), noise), [[0.25, 0.5]]
    )


def multiply(a, b):
    """The product of two quaternions."""
    w, x, y, z = a
    return np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]) @ b


def turned(state, angle, quarter):
    """The state turned about the vertical, its legs named anew by quarter turns of the body."""

    def spin(angle):
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def joints(values):
        bend = np.array([[1, 1], [1, -1], [1, -1], [1, 1]])  # ankles 2 and 3 bend the other way
        return (np.roll(values.reshape(4, 2) * bend, -quarter, 0) * bend).ravel()

    out = state.copy()
    world = np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])
    body = np.array([np.cos(quarter * np.pi / 4), 0, 0, np.sin(quarter * np.pi / 4)])
    out[3:7] = multiply(multiply(world, state[3:7]), body)
    out[15:17] = spin(angle) @ state[15:17]
    out[18:20] = spin(-quarter * np.pi / 2) @ state[18:20]
    out[7:15], out[21:] = joints(state[7:15]), joints(state[21:])
    return out, spin(angle)


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("angle", [0.0, 0.7, -2.9])
def test_symmetry_of_the_physics(quarter, angle):
    # The same ant, seen from another side: same features, and after the same move again.
    rng, env = np.random.default_rng(quarter), AntMaze("umaze")
    for height in (0.6, 2.0):  # in contact with the floor, and in the air
        state = env.reset(seed=quarter)[0]
        state[:3] = 0, 0, height
        state[3:7] += 0.2 * rng.normal(size=4)
        state[3:7] /= np.linalg.norm(state[3:7])
        state[15:] = rng.normal(size=14)
        direction, move = np.array([1.0, 0.3]), rng.uniform(-1, 1, (1, 8))
        seen = []
        for one, ahead in (
            (state, direction),
            (turned(state, angle, quarter)[0], turned(state, angle, quarter)[1] @ direction),
        ):
            now, turns = features(one[None], ahead[None])
            env.reset(seed=0)
            env.set_state(one[:15], one[15:])
            after = env.step(actions(move, turns)[0])[0]
            seen.append(np.concatenate([now, features(after[None], ahead[None])[0]]))
        np.testing.assert_allclose(seen[0], seen[1], atol=1e-9)


def test_features_by_hand():
    # Upright, nose along +y, waypoint along +y: seen as nose ahead, one quarter turn at most.
    state = np.zeros((1, 29))
    state[0, 2], state[0, 3:7] = 0.5, [np.cos(np.pi / 4), 0, 0, np.sin(np.pi / 4)]
    state[0, 15:18] = 0.0, 2.0, 0.1
    seen, turns = features(state, np.array([[0.0, 3.0]]))
    assert turns[0] == 0
    np.testing.assert_allclose(seen[0, :10], [0.5, *np.eye(3).ravel()], atol=1e-12)
    np.testing.assert_allclose(seen[0, 18:21], [2.0, 0.0, 0.1], atol=1e-12)
    # The waypoint on the left: the left side (leg 2 first) becomes the front.
    seen, turns = features(state, np.array([[-1.0, 0.0]]))
    assert turns[0] == 1
    np.testing.assert_allclose(seen[0, 1:10], np.eye(3).ravel(), atol=1e-12)
    np.testing.assert_allclose(seen[0, 18:21], [0.0, -2.0, 0.1], atol=1e-12)
    # Motors are leg 4, 1, 2, 3; the first leg seen is leg 2, whose ankle bends the other way.
    move = np.array([[0.1, 0.2, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(actions(move, turns), [[0, 0, 0, 0, 0.1, -0.2, 0, 0]])


def test_cells_of_a_maze_are_walked_through():
    way, goal = Navigator("large"), np.array([[32.5, 24.5]])
    here, path = np.zeros((1, 2)), []
    for _ in range(40):
        here = way.waypoints(here, goal, np.zeros((1, 2)))
        path.append(here[0])
    np.testing.assert_array_equal(path[-1], goal[0])
    assert (path[0] != cell_xy("large", np.array([1, 1]))).any()
