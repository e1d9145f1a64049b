"""Task records: D4RL's scores, horizons, actions in [-1, 1], names that do not exist."""

import sys

import gymnasium
import numpy as np
import pointmass
import pytest

from stratdiff import registry
from stratdiff.data.dataset import from_arrays
from stratdiff.errors import UserError
from stratdiff.tasks import (
    Task,
    facts,
    find_task,
    make_env,
    physics_note,
    related,
    task_of,
    task_of_env,
    version_note,
    wrap_env,
)


@pytest.mark.parametrize(
    ("env_id", "low", "high", "sizes"),
    [
        ("HalfCheetah-v4", -280.178953, 12135.0, (17, 6)),
        ("Hopper-v4", -20.272305, 3234.3, (11, 3)),
        ("Walker2d-v4", 1.629008, 4592.3, (17, 6)),
    ],
)
def test_d4rl_scores(env_id, low, high, sizes):
    # Reference returns of d4rl/infos.py, copied by hand.
    task = find_task(env_id)
    assert task.score(low) == pytest.approx(0, abs=1e-9)
    assert task.score(high) == pytest.approx(100)
    assert task.score((low + high) / 2) == pytest.approx(50)
    assert (task.obs_dim, task.action_dim) == sizes
    assert task.horizon == 1000
    assert task.env_id == env_id


def test_score_by_hand():
    # HalfCheetah at 5000: (5000 + 280.178953) / 12415.178953.
    assert find_task("HalfCheetah-v4").score(5000.0) == pytest.approx(42.5300, abs=1e-4)
    task = Task("Mine-v0", 1, 1, None, (-100.0, 300.0))
    assert task.score(0.0) == 25
    assert task.score(-200.0) == -25


def test_unknown_reference_gives_the_plain_return():
    task = find_task("Pendulum-v1")
    assert task.reference_returns is None
    assert task.score(-123.5) == -123.5
    assert (task.obs_dim, task.action_dim, task.horizon) == (3, 1, 200)


def test_own_environment_of_a_module():
    task = find_task(pointmass.ENV)
    assert (task.obs_dim, task.action_dim, task.horizon) == (2, 2, pointmass.HORIZON)
    assert task.reference_returns is None


@pytest.mark.parametrize("action", [-1.0, -0.25, 0.5, 1.0])
def test_actions_are_scaled_to_one(action):
    env, plain = make_env("Pendulum-v1"), gymnasium.make("Pendulum-v1")
    assert plain.action_space.high == 2
    assert (env.action_space.low, env.action_space.high) == (-1, 1)
    env.reset(seed=3)
    plain.reset(seed=3)
    found = env.step(np.array([action], np.float32))
    expected = plain.step(np.array([2 * action], np.float32))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    assert found[1] == pytest.approx(expected[1], rel=1e-6)
    env.close()
    plain.close()


def test_actions_in_range_are_left_alone():
    env = make_env("Hopper-v4")
    wrappers = []
    while isinstance(env, gymnasium.Wrapper):
        wrappers.append(type(env))
        env = env.env
    assert gymnasium.wrappers.RescaleAction not in wrappers
    env.close()


@pytest.mark.parametrize(
    ("env_id", "near"),
    [
        ("HalfCheeta-v4", "HalfCheetah-v4"),
        ("hopper-v4", "Hopper-v4"),
        ("Pendulm-v1", "Pendulum-v1"),
    ],
)
def test_unknown_environment_suggests_near_names(env_id, near):
    with pytest.raises(UserError) as caught:
        find_task(env_id)
    assert repr(env_id) in str(caught.value)
    assert near in str(caught.value)


@pytest.mark.parametrize("env_id", ["no_such_module:Thing-v0", "", "a b/c d"])
def test_environment_that_cannot_be_made(env_id):
    with pytest.raises(UserError) as caught:
        make_env(env_id)
    assert repr(env_id) in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "what"), [("CartPole-v1", "action"), ("FrozenLake-v1", "observation")]
)
def test_spaces_that_are_no_flat_box(env_id, what):
    with pytest.raises(UserError) as caught:
        make_env(env_id)
    for word in (env_id, what, "Discrete", "flat Box"):
        assert word in str(caught.value)


def test_version_note():
    assert version_note("3.4.0", "3.2.3") is None and version_note("3.10.1", "3.5.0") is None
    assert "made with MuJoCo 3.4.0, 3.5.0" in version_note("3.4.0", "3.5.0")
    assert "made with MuJoCo 3.10.0, 3.4.0" in version_note("3.10.0", "3.4.0")


def test_physics_note_is_for_bodies_with_margins():
    newer = "99.0"
    for env_id in ("Hopper-v4", "Ant-v5", "stratdiff/AntMaze-large-v2"):
        assert "made with MuJoCo 99.0" in physics_note(env_id, newer)
        assert physics_note(env_id, None) is None
        assert physics_note(env_id, "2") is None
    assert physics_note("HalfCheetah-v4", newer) is None


class DictObservations(gymnasium.Env):
    """Numbered entries, of the sizes given."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, sizes):
        box = gymnasium.spaces.Box
        self.observation_space = gymnasium.spaces.Dict(
            {key: box(-np.inf, np.inf, (size,)) for key, size in sizes.items()}
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        spaces, start, obs = self.observation_space, 0, {}
        for key in ("achieved_goal", "observation", "desired_goal"):
            if key in spaces.spaces:
                obs[key] = np.arange(start, start + spaces[key].shape[0], dtype=np.float32)
                start += len(obs[key])
        return {key: obs[key] for key in spaces}, {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        # Gymnasium-Robotics' AntMaze: D4RL's order, xy first, without the goal.
        ({"observation": 27, "achieved_goal": 2, "desired_goal": 2}, np.arange(29)),
        ({"observation": 3, "achieved_goal": 2}, np.arange(5)),
    ],
)
def test_dictionaries_are_flattened(sizes, expected):
    gymnasium.register("Dicts-v0", lambda: DictObservations(sizes))
    try:
        env = make_env("Dicts-v0")
        np.testing.assert_array_equal(env.reset(seed=0)[0], expected)
        assert env.observation_space.shape == expected.shape
    finally:
        del gymnasium.registry["Dicts-v0"]


def test_module_that_only_a_file_names(monkeypatch):
    monkeypatch.setattr(registry, "_trusted", set())
    with pytest.raises(UserError, match=f"'{pointmass.ENV}' is code that a file names as --env"):
        find_task(pointmass.ENV)
    assert find_task("Hopper-v4").obs_dim == 11  # not a module: always
    registry.trust(pointmass.ENV)
    assert find_task(pointmass.ENV).obs_dim == 2


def test_environment_objects_and_factories():
    plain = pointmass.PointMass()
    guarded = make_env(plain)
    assert guarded.unwrapped is plain and wrap_env(guarded) is guarded
    assert isinstance(make_env(pointmass.PointMass).unwrapped, pointmass.PointMass)
    task = task_of_env(guarded)
    assert (task.env_id, task.obs_dim, task.action_dim, task.horizon) == ("", 2, 2, None)
    pendulum = make_env(lambda: gymnasium.make("Pendulum-v1"))
    assert (pendulum.action_space.low, pendulum.action_space.high) == (-1, 1)
    assert task_of_env(pendulum) == find_task("Pendulum-v1")
    hopper = wrap_env(gymnasium.make("Hopper-v4"))
    assert task_of_env(hopper) == find_task("Hopper-v4")
    assert task_of_env(hopper, "mine:Hopper-v0").reference_returns is None
    with pytest.raises(UserError, match="flat Box"):
        wrap_env(gymnasium.make("CartPole-v1"))


def test_task_without_an_environment():
    data = from_arrays("mine", pointmass.make_arrays(episodes=2))
    assert task_of(data) == Task("", 2, 2)
    assert task_of(data).score(-3.5) == -3.5 and task_of(data).longest_trajectory is None
    known = task_of(data, "Hopper-v4")
    assert known.reference_returns == (-20.272305, 3234.3) and known.horizon is None


def test_what_a_name_implies():
    assert facts("Walker2d-v5") == facts("Walker2d-v4") and facts("Walker2d-v4").maze is None
    maze = facts("stratdiff/AntMaze-eval-large-v2")
    assert (maze.maze, maze.recipe, maze.reference_returns) == ("eval-large", "antmaze", (0, 1))
    assert facts("mine:Hopper-v4") == facts("Mine-v0") == facts("")
    assert related("Hopper-v4") == ["Hopper-v5", "Hopper-v3", "Hopper-v2"]
    assert related(pointmass.ENV) == []
    others = related("stratdiff/AntMaze-large-v2")
    assert len(others) == 5 and "stratdiff/AntMaze-eval-large-v2" in others


def test_repr_is_one_line():
    assert repr(find_task("Hopper-v4")) == (
        "Task('Hopper-v4': 11 observations, 3 actions, at most 1000 steps, recipe locomotion)"
    )
    data = from_arrays("mine", pointmass.make_arrays(episodes=2))
    assert repr(data) == (
        "Dataset('mine': 80 rows, 78 transitions, 2 episodes, 2 observations, 2 actions, from an "
        "unnamed environment)"
    )


@pytest.mark.parametrize(
    ("env_id", "sizes"),
    [
        ("AdroitHandPen-v1", (45, 24, 200)),
        ("AdroitHandDoor-v1", (39, 28, 200)),
        ("AdroitHandHammer-v1", (46, 26, 200)),
        ("AdroitHandRelocate-v1", (39, 30, 200)),
        ("FrankaKitchen-v1", (59 + 2 * 17, 9, 280)),  # the observation and two goals, flat
    ],
)
@pytest.mark.filterwarnings("ignore:.*share an object")
def test_environments_of_gymnasium_robotics(env_id, sizes, monkeypatch):
    """They are registered when one is asked for."""
    env = make_env(env_id)
    env.try_out()
    first, again = env.reset(seed=3)[0], env.reset(seed=3)[0]
    np.testing.assert_array_equal(first, again)
    env.close()
    task = find_task(env_id)
    assert (task.obs_dim, task.action_dim, task.horizon) == sizes
    assert task.reference_returns is None  # D4RL's are of its own environments
    monkeypatch.delitem(gymnasium.registry, env_id)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(UserError, match=r"pip install 'stratdiff\[gymnasium-robotics\]'"):
        find_task(env_id)


def test_rewards_of_the_hand_are_not_d4rls():
    """What the refusal says, from the environments: the sign of a distance, and no end."""
    for env_id, palm_to_object in (("AdroitHandDoor-v1", slice(35, 38)),
                                   ("AdroitHandRelocate-v1", slice(30, 33))):  # fmt: skip
        env = make_env(env_id)
        env.reset(seed=0)
        obs, reward, *_ = env.step(np.zeros(env.action_space.shape, np.float32))
        rest, inner = 0.1 * np.linalg.norm(obs[palm_to_object]), env.unwrapped
        if "Door" in env_id:
            hinge = inner.data.qpos[inner.door_hinge_addrs]
            rest -= 0.1 * (hinge - 1.57) ** 2 + 1e-5 * np.sum(inner.data.qvel**2)
        assert reward == pytest.approx(float(rest))
        env.close()
    env = make_env("AdroitHandPen-v1")
    env.reset(seed=0)
    inner = env.unwrapped
    qpos = inner.data.qpos.copy()
    qpos[-4] -= 0.5  # the pen falls
    inner.set_state(qpos, inner.data.qvel.copy())
    ends = [env.step(np.zeros(24, np.float32))[2:4] for _ in range(200)]
    assert inner.data.xpos[inner.obj_body_id][2] < 0.075
    assert ends == [(False, False)] * 199 + [(False, True)]
    env.close()
