"""Where environments come from: a name, a factory, one object, nowhere."""

import gymnasium
import numpy as np
import pointmass
import pytest

from stratdiff.config import OUTSIDE
from stratdiff.data.sources import load_dataset
from stratdiff.errors import UserError
from stratdiff.tasks import Task
from stratdiff.training import environments
from stratdiff.training.environments import check_enough, find_environments, scored


@pytest.fixture
def dataset(data_file):
    return load_dataset(str(data_file))


@pytest.fixture
def found(data_file, dataset):
    return lambda env_id, given=None: find_environments(env_id, str(data_file), dataset, given)


class Made(gymnasium.Wrapper):
    """Counts its instances and what is closed."""

    count, closed = 0, 0

    def __init__(self):
        super().__init__(gymnasium.make("PointMass-v0"))
        type(self).count += 1

    def close(self):
        type(self).closed += 1
        super().close()


@pytest.fixture(autouse=True)
def fresh():
    Made.count = Made.closed = 0


def test_by_name(found):
    known = found(pointmass.ENV)
    assert known.known and known.task == Task(pointmass.ENV, 2, 2, pointmass.HORIZON)
    first, second = known.make(2)
    assert first is not second
    known.close([first, second])


def test_no_name_is_one_sentence(found):
    with pytest.raises(UserError, match="does not name its environment; give it with --env"):
        found("")


@pytest.mark.parametrize("factory", [lambda: Made(), Made])
def test_a_factory_makes_no_more_than_are_needed(found, factory):
    """The one that was made to look at is used; a class is a factory too."""
    known = found(OUTSIDE, factory)
    assert (Made.count, known.task.horizon) == (1, pointmass.HORIZON)
    envs = known.make(2)
    assert Made.count == 2
    known.close(envs)
    assert Made.closed == 2


def test_an_object_is_used_as_it_is_and_left_open(found):
    env = Made()
    known = found(OUTSIDE, env)
    assert known.make(1) == [env] and Made.count == 1
    known.close([env])
    assert Made.closed == 0


def test_an_object_is_one(found):
    check_enough(Made(), 1)
    check_enough(Made, 5)
    check_enough(None, 5)
    with pytest.raises(UserError, match=r"5 environments are needed.*one environment object"):
        check_enough(Made(), 5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (pointmass.ENV, "env is 'pointmass:PointMass-v0'; give a gymnasium.Env"),
        (3, "env is 3; give"),
        (lambda: None, "env is a function that returned None; give"),
    ],
)
def test_what_is_no_environment_is_named(found, given, said):
    with pytest.raises(UserError, match=said):
        found(OUTSIDE, given)


def test_actions_of_a_given_environment_are_scaled(found):
    env = Made()
    env.action_space = gymnasium.spaces.Box(-2.0, 2.0, (2,), np.float32)
    (used,) = found(OUTSIDE, env).make(1)
    assert used is not env and used.unwrapped is env.unwrapped
    assert (used.action_space.low == -1).all() and (used.action_space.high == 1).all()


def test_nowhere(found, dataset):
    known = found(OUTSIDE)
    assert not known.known
    assert known.task == Task("", *dataset.observations.shape[1:], *dataset.actions.shape[1:])


def test_only_the_data_set_may_know_the_reference_returns(monkeypatch):
    task = Task("E", 2, 2)
    assert scored(task, "in memory") == task
    # D4RL's sets of environments that the package cannot make; the others have them by their task.
    assert scored(task, "d4rl/pen-human-v1").reference_returns is not None
    assert scored(task, "stratdiff/hopper-medium") == task
    known = Task("E", 2, 2, reference_returns=(0.0, 7.0))
    monkeypatch.setattr(environments, "locate", lambda name: pytest.fail("not asked"))
    assert scored(known, "d4rl/pen-human-v1") is known
