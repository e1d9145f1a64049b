"""AntMaze against ogbench's ant (bit for bit) and D4RL's own policy."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from stratdiff.data.made.waypoints import Navigator
from stratdiff.envs.antmaze import AntMaze
from stratdiff.envs.mazes import HORIZONS, cell_xy, cells, walls
from stratdiff.tasks import find_task, make_env

POLICY = Path(__file__).parents[3] / "shared" / "data" / "ant_goal_policy.npz"


@pytest.mark.parametrize("maze", ["medium", "large"])
@pytest.mark.parametrize("seed", [0, 1])
def test_same_states_as_ogbench_bit_for_bit(maze, seed):
    from ogbench.locomaze.maze import make_maze_env

    theirs = make_maze_env("ant", "maze", maze_type=maze, render_mode=None)
    assert (theirs.maze_map.astype(bool) == walls(maze)).all()
    ours = AntMaze(maze)
    # Against a wall, so that its contacts are in it too.
    start = cell_xy(maze, np.array([1, 1])) + np.array([0.0, -1.4])
    state, _ = ours.reset(seed=seed, options={"xy": start})
    theirs.reset(seed=seed)
    theirs.set_state(state[:15], state[15:])
    rng = np.random.default_rng(seed)
    contacts = 0
    for _ in range(200):
        action = rng.uniform(-1, 1, 8).astype(np.float32)
        state, *_ = ours.step(action)
        expected, *_ = theirs.step(action)
        np.testing.assert_array_equal(state, expected)
        contacts += ours.data.ncon
    assert contacts > 200


@pytest.mark.parametrize(("maze", "horizon"), [("umaze", 700), ("medium", 1000), ("large", 1000)])
def test_registered(maze, horizon):
    env = make_env(f"stratdiff/AntMaze-{maze}-v2")
    assert env.spec.max_episode_steps == HORIZONS[maze] == horizon
    task = find_task(f"stratdiff/AntMaze-{maze}-v2")
    assert (task.obs_dim, task.action_dim, task.horizon) == (29, 8, horizon)
    assert task.recipe == "antmaze"
    assert task.score(1.0) == 100
    assert find_task("HalfCheetah-v4").recipe == "locomotion"


def test_gymnasium_finds_no_fault():
    from gymnasium.utils.env_checker import check_env

    with pytest.warns(UserWarning, match="Box observation space m"):  # unbounded, as D4RL's
        check_env(gymnasium.make("stratdiff/AntMaze-umaze-v2").unwrapped, skip_render_check=True)


@pytest.mark.parametrize("maze", ["umaze", "medium", "large"])
def test_goal_noise(maze):
    # The cell's centre + U(0, 1) + U(0, 0.5): triangular ends, mean 0.75, variance 1/12 + 0.25/12.
    env = AntMaze(maze)
    goals = np.array([env.reset(seed=s)[1]["goal"] for s in range(2000)])
    offset = goals - cell_xy(maze, cells(maze, "eG")[0])
    assert offset.min() >= 0 and offset.max() <= 1.5
    assert offset.min() < 0.1 and offset.max() > 1.4
    np.testing.assert_allclose(offset.mean(0), 0.75, atol=4 * np.sqrt(1.25 / 12 / 2000))
    np.testing.assert_allclose(offset.var(0), 1.25 / 12, rtol=0.1)
    assert abs(np.corrcoef(offset.T)[0, 1]) < 0.1


def test_start_noise():
    env = AntMaze("umaze")
    states = np.array([env.reset(seed=s)[0] for s in range(1000)])
    rest = np.array([0, 0, 0.75, 1, *[0] * 11])
    offset = states[:, :15] - rest
    assert np.abs(offset).max() <= 0.1 and np.abs(offset).max() > 0.099
    np.testing.assert_allclose(offset.std(), 0.1 / np.sqrt(3), rtol=0.03)
    np.testing.assert_allclose(states[:, 15:].std(), 0.1, rtol=0.03)


@pytest.mark.parametrize("inside", [True, False])
def test_success_radius(inside):
    # The ant stands still with zero torque for 0.1 s; the goal is put just inside or outside.
    env = AntMaze("umaze")
    env.reset(seed=0)
    env.set_state(np.array([0, 0, 0.75, 1, *[0] * 11]), np.zeros(14))
    env.step(np.zeros(8))
    after = env.data.qpos[:2].copy()
    env.set_state(np.array([0, 0, 0.75, 1, *[0] * 11]), np.zeros(14))
    env.goal = after + np.array([0.499 if inside else 0.501, 0])
    _, reward, terminated, truncated, info = env.step(np.zeros(8))
    assert (reward, terminated, truncated) == (float(inside), inside, False)
    assert info["success"] is inside


def test_a_fallen_ant_goes_on():
    env = gymnasium.make("stratdiff/AntMaze-umaze-v2")
    env.reset(seed=0)
    env.unwrapped.set_state(np.array([0, 0, 0.4, 0, 1, *[0] * 10]), np.zeros(14))  # on its back
    for _ in range(20):
        _, reward, terminated, truncated, _ = env.step(np.zeros(8))
        assert (reward, terminated, truncated) == (0.0, False, False)


def test_episodes_repeat_from_their_seed():
    def states(seed):
        env, rng = AntMaze("medium"), np.random.default_rng(3)
        found = [env.reset(seed=seed)[0]]
        found += [env.step(rng.uniform(-1, 1, 8))[0] for _ in range(20)]
        return np.array(found), env.goal

    a, b, other = states(5), states(5), states(6)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    assert (a[0] != other[0]).any() and (a[1] != other[1]).any()


def d4rl_policy(state, way):
    """D4RL's walking policy: two hidden layers, mean action."""
    with np.load(POLICY, allow_pickle=False) as file:
        net = dict(file)
    x = np.concatenate([state[:, 2:], 10 * way / np.linalg.norm(way, axis=1)[:, None]], 1)
    for layer in ("fc0", "fc1"):
        x = np.maximum(x @ net[f"{layer}_weight"].T + net[f"{layer}_bias"], 0)
    return np.tanh(x @ net["last_fc_weight"].T + net["last_fc_bias"])


@pytest.mark.skipif(not POLICY.is_file(), reason="the checkout has no shared folder")
@pytest.mark.slow
@pytest.mark.parametrize(("maze", "noted"), [("umaze", 0.8), ("medium", 0.8), ("large", 0.76)])
def test_d4rl_policy_reaches_the_goal(maze, noted):
    # Rates of shared/data/README.md, multiples of 4 %: taken for 25 episodes' own.
    n, rng = 40, np.random.default_rng(0)
    envs, way = [AntMaze(maze) for _ in range(n)], Navigator(maze)
    state = np.stack([env.reset(seed=i)[0] for i, env in enumerate(envs)])
    goals = np.stack([env.goal for env in envs])
    reached = np.zeros(n, bool)
    for _ in range(HORIZONS[maze]):
        ahead = way.waypoints(state[:, :2], goals, rng.uniform(0, 1, (n, 2))) - state[:, :2]
        action = d4rl_policy(state, ahead) + 0.2 * rng.standard_normal((n, 8))
        for i in np.flatnonzero(~reached):
            state[i], _, reached[i], *_ = envs[i].step(np.clip(action[i], -1, 1))
    # Three standard errors of the difference below.
    assert reached.mean() >= noted - 3 * np.sqrt(noted * (1 - noted) * (1 / n + 1 / 25))
