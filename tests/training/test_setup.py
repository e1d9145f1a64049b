"""From options, task and data to a setup: reward units, sizes, data that do not fit."""

import dataclasses

import h5py
import numpy as np
import pointmass
import pytest
import runs

import stratdiff
from stratdiff.data.sources import load_dataset
from stratdiff.errors import RunStopped, UserError
from stratdiff.tasks import Task, find_task
from stratdiff.training.setup import check_data, check_goal_rewards, make_setup, reward_scale


def units_of(config, dataset):
    return make_setup(config, find_task(config.env), reward_scale(config, dataset))[1]


def test_reward_units(tiny):
    dataset = load_dataset(tiny().dataset)
    calql = units_of(dataclasses.replace(tiny(base="calql"), recipe="antmaze"), dataset)
    assert (calql.scale, calql.shift, calql.q_divisor) == (10, -5, 10)
    iql = units_of(dataclasses.replace(tiny(), recipe="antmaze"), dataset)
    assert (iql.scale, iql.shift, iql.q_divisor) == (1, -1, 1)
    returns = [
        float(r.sum()) for r in np.split(dataset.rewards, np.flatnonzero(dataset.ends)[:-1] + 1)
    ]
    locomotion = units_of(tiny(), dataset)
    assert locomotion.scale == pytest.approx(1000 / (max(returns) - min(returns)), rel=1e-5)
    assert units_of(tiny(reward_scale=2.5), dataset).scale == 2.5
    with pytest.raises(UserError, match=r"--reward-scale is 2.5, and --recipe antmaze has its own"):
        units_of(dataclasses.replace(tiny(reward_scale=2.5), recipe="antmaze"), dataset)


def test_sizes_of_the_setup(tiny):
    dataset, task = load_dataset(tiny().dataset), find_task(pointmass.ENV)
    made = make_setup(tiny(offline_fraction=0.3), task, reward_scale(tiny(), dataset))[0]
    assert (made.offline_rows, made.batch_size, made.capacity) == ((5, 5), 16, 120)
    assert (made.horizon, made.failure_reward) == (pointmass.HORIZON, None)
    endless = dataclasses.replace(task, horizon=None)
    assert make_setup(tiny(online_steps=70), endless, 1.0)[0].horizon == 70
    maze = dataclasses.replace(tiny(base="calql"), recipe="antmaze")
    assert make_setup(maze, task, 1.0)[0].failure_reward == -5


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Task("E", 3, 2), "observations of size 2 but environment 'E' has size 3"),
        (Task("E", 2, 1), "actions of size 2 but environment 'E' has size 1"),
        (Task("E", 2, 2, 30), "a trajectory of 40 rows .* after 30 steps"),
    ],
)
def test_data_that_do_not_fit_the_task(tiny, task, said):
    with pytest.raises(UserError, match=said):
        check_data(task, load_dataset(tiny().dataset))


def test_data_of_another_environment_of_d4rl(tiny):
    dataset = dataclasses.replace(load_dataset(tiny().dataset), env_id="Hopper-v4")
    with pytest.raises(UserError, match="collected in 'Hopper-v4', not in environment 'Walker2d"):
        check_data(Task("Walker2d-v4", 2, 2), dataset)
    check_data(Task("Hopper-v5", 2, 2), dataset)  # versions may differ


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("AdroitHandRelocate-v1", r"rewards the distance .*minari/D4RL"),
        ("AdroitHandPen-v1", "when the pen is dropped"),
        ("AntMaze_Medium_Diverse_GR-v5", "another simulator"),
    ],
)
def test_d4rls_data_in_another_environment(tiny, env_id, said):
    dataset = dataclasses.replace(load_dataset(tiny().dataset), name="d4rl/some-v1")
    with pytest.raises(UserError, match=said):
        check_data(Task(env_id, 2, 2), dataset)
    # Data that were recorded there fit, whatever their name.
    there = dataclasses.replace(dataset, name="minari/D4RL/some/human-v2", env_id=env_id)
    check_data(Task(env_id, 2, 2), there)
    if env_id.startswith("AntMaze"):
        own = dataclasses.replace(there, env_id="stratdiff/AntMaze-medium-v2")
        with pytest.raises(UserError, match="was collected in"):
            check_data(Task(env_id, 2, 2), own)


def test_data_without_the_file_naming_its_environment(tiny, tmp_path, data_file):
    nameless = tmp_path / "nameless.hdf5"
    with h5py.File(data_file) as old, h5py.File(nameless, "w") as new:
        for key in old:
            new[key] = old[key][()]
    with pytest.raises(UserError, match="does not name its environment; give it with --env"):
        stratdiff.train(tiny(dataset=str(nameless), env=""), tmp_path / "run", reporter=runs.QUIET)
    assert not (tmp_path / "run").exists()


def test_data_of_another_environment(tiny, tmp_path):
    with pytest.raises(
        UserError, match="observations of size 2 but environment 'HalfCheetah-v4' has"
    ):
        stratdiff.train(tiny(env="HalfCheetah-v4"), tmp_path / "run", reporter=runs.QUIET)
    assert not (tmp_path / "run").exists()


def test_no_complete_trajectory_for_calql(tiny, tmp_path):
    path = tmp_path / "open.hdf5"
    arrays = pointmass.make_arrays(episodes=1)
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array[:30]
    options = {"dataset": str(path), "reward_scale": 1.0}
    with pytest.raises(UserError, match="no complete trajectory"):
        stratdiff.train(tiny(base="calql", **options), tmp_path / "run", reporter=runs.QUIET)
    with pytest.raises(UserError, match=r"rewards cannot be scaled.*--reward-scale"):
        stratdiff.train(tiny(dataset=str(path)), tmp_path / "run", reporter=runs.QUIET)


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ((-1, 0, -1), "the reward -1, .* add 1 to every reward of the data and of the environment"),
        ((0, 1, 0.5), "the reward 0.5, .* give --recipe locomotion"),
        ((0, 10), "the reward 10,"),
    ],
)
def test_rewards_of_the_antmaze_recipe(rewards, said):
    with pytest.raises(UserError, match=f"it has {said}"):
        check_goal_rewards(np.array(rewards, np.float32), "it")
    check_goal_rewards(np.array([0, 1, 1.0]), "it")
    with pytest.raises(RunStopped):
        check_goal_rewards(np.array(rewards, np.float64), "it", RunStopped)


def test_dense_rewards_under_the_antmaze_recipe(tiny, tmp_path):
    """PointMass rewards every step; nothing is written."""
    config = dataclasses.replace(tiny(), recipe="antmaze")
    with pytest.raises(UserError, match="--recipe antmaze needs rewards of 1 at a goal"):
        stratdiff.train(config, tmp_path / "out", reporter=runs.QUIET)
    assert not (tmp_path / "out").exists()
