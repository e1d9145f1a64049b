"""Rows of made sets: D4RL's recipes, whole episodes."""

import gymnasium
import numpy as np
import pytest
from logged import KEYS, arrays_of

from stratdiff.data import hdf5
from stratdiff.data.made import recipes, store
from stratdiff.envs.antmaze import AntMaze
from stratdiff.envs.mazes import cell_xy, cells, xy_cell
from stratdiff.policy import Policy

ROWS = 3000


@pytest.mark.parametrize("name", ["hopper-medium-replay", "walker2d-random", "halfcheetah-medium"])
def test_rows_are_what_the_environment_does(cache, name):
    # Every row again by hand: set its state, take its action, compare.
    path = store.make(f"stratdiff/{name}", ROWS)
    rows, env_id = arrays_of(path), hdf5.read_attributes(path)["env_id"]
    env = gymnasium.make(env_id).unwrapped
    env.reset(seed=0)
    ends = (rows["terminals"] + rows["timeouts"]) > 0
    assert ends.any() and not (rows["terminals"] * rows["timeouts"]).any()
    for i in np.random.default_rng(0).choice(ROWS - 1, 60, replace=False):
        env.set_state(rows["infos/qpos"][i], rows["infos/qvel"][i])
        after, reward, terminated, *_ = env.step(rows["actions"][i])
        assert terminated == rows["terminals"][i]
        np.testing.assert_allclose(reward, rows["rewards"][i], atol=1e-3)
        if not ends[i]:
            np.testing.assert_allclose(after, rows["observations"][i + 1], atol=2e-3)


def test_actions_are_the_snapshots_own(cache):
    # Noise is drawn per lane: actions given states have the snapshot's mean and spread.
    path = store.make("stratdiff/hopper-medium", ROWS)
    rows = arrays_of(path)
    ladder = Policy.load(recipes.SNAPSHOTS / "hopper.safetensors")
    medium = ladder[ladder.metadata["medium"] :][:1]
    mean, log_std = medium._mean_and_log_std(rows["observations"][None])
    pre = np.arctanh(np.clip(rows["actions"].astype(float), -1 + 1e-6, 1 - 1e-6))
    noise = (pre - mean[0]) / np.exp(log_std[0])
    inner = np.abs(rows["actions"]) < 0.99  # saturated actions cannot be undone
    assert abs(np.median(noise[inner])) < 0.3
    expected = medium.sample(
        rows["observations"][None], np.random.default_rng(0).normal(size=(1, ROWS, 3))
    )[0]
    np.testing.assert_allclose(rows["actions"].mean(0), expected.mean(0), atol=0.05)
    np.testing.assert_allclose(rows["actions"].std(0), expected.std(0), rtol=0.06)


def test_uniform_actions(cache):
    actions = arrays_of(store.make("stratdiff/walker2d-random", ROWS))["actions"]
    assert np.abs(actions).max() <= 1
    np.testing.assert_allclose(actions.mean(), 0, atol=0.02)
    np.testing.assert_allclose(actions.var(), 1 / 3, rtol=0.03)  # of U(-1, 1)


@pytest.mark.slow
def test_replay_goes_up_the_ladder(cache):
    dataset = hdf5.read(store.make("stratdiff/hopper-medium-replay", 25_000))
    returns = dataset.episode_returns
    third = len(returns) // 3
    assert returns[:third].mean() < returns[-third:].mean() / 2
    # The first rows are of uniform actions.
    assert abs(np.var(dataset.actions[:1000]) - 1 / 3) < 0.03


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=[] if name == "umaze" else pytest.mark.slow)
        for name in ("umaze", "umaze-diverse", "medium-play", "large-diverse")
    ],
)
def test_antmaze_recipe(cache, variant):
    path = store.make(f"stratdiff/antmaze-{variant}", 4000)
    maze = variant.split("-")[0]
    rows = arrays_of(path, (*KEYS, "infos/goal"))
    length = 701 if maze == "umaze" else 1001
    np.testing.assert_array_equal(
        np.flatnonzero(rows["timeouts"]), np.arange(length - 1, 4000, length)
    )
    xy, starts = rows["observations"][:, :2], np.arange(0, 4000, length)
    cell = xy_cell(maze, xy[starts])
    off = np.abs(xy[starts] - cell_xy(maze, cell))
    assert off.max() <= 0.1 + 1e-6
    if variant == "umaze":
        assert (cell == cells(maze, "r")).all()
    else:
        assert len(np.unique(cell, axis=0)) > 1
    # Goals of collection: one an episode, in a cell marked for it.
    for start in starts:
        goals = rows["infos/goal"][start : start + length]
        assert (goals == goals[0]).all()
    corner = rows["infos/goal"][starts][:, None] - cell_xy(maze, cells(maze, "gGe"))[None]
    assert ((corner >= 0) & (corner <= 1.5)).all(2).any(1).all()
    # Rewards by D4RL's relabelling, for one goal of evaluation.
    env = AntMaze(maze)
    env.reset(seed=0)
    target = env.draw_goal()
    naive = np.zeros(4000)
    for t in range(3999):
        if not rows["timeouts"][t]:  # rows that are dropped
            naive[t] = np.linalg.norm(xy[t + 1] - target) <= 0.5
    kept = rows["timeouts"] == 0
    kept[-1] = False
    np.testing.assert_array_equal(rows["rewards"][kept], naive[kept])
    np.testing.assert_array_equal(rows["rewards"], rows["terminals"])
    # Most ants make their way.
    assert np.linalg.norm(xy[length - 2] - xy[0]) > 1 or maze == "umaze"
