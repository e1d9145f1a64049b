"""Where environments come from: a name, a factory, one object, nowhere."""

import dataclasses
import json

import gymnasium
import numpy as np
import pointmass
import pytest

from stratdiff.config import OUTSIDE
from stratdiff.data.sources import load_dataset
from stratdiff.errors import BadEnvironment, UserError
from stratdiff.tasks import Task
from stratdiff.training import environments
from stratdiff.training.environments import check_enough, find_environments, resolved, scored


@pytest.fixture
def dataset(data_file):
    return load_dataset(str(data_file))


@pytest.fixture
def found(tiny, dataset):
    """The environments of a config; `n` of them are needed."""

    def find(given=None, n=1, **options):
        return find_environments(resolved(tiny(**options), dataset, given), given, n)

    return find


class Made(gymnasium.Wrapper):
    """Counts its instances and what is closed; no more than `most` are open at once."""

    count, closed, most = 0, 0, 99

    def __init__(self):
        super().__init__(gymnasium.make("PointMass-v0"))
        if self.count - self.closed >= self.most:
            raise RuntimeError("the port is taken")
        type(self).count += 1

    def close(self):
        type(self).closed += 1
        super().close()


@pytest.fixture(autouse=True)
def fresh():
    Made.count, Made.closed, Made.most = 0, 0, 99
    gymnasium.register("Made-v0", Made)
    yield
    del gymnasium.registry["Made-v0"]


def test_by_name(found):
    known = found()
    assert known.known and known.task == Task(pointmass.ENV, 2, 2, pointmass.HORIZON)
    first, second = known.make(2)
    assert first is not second
    known.close([first, second])


def test_no_name_is_one_sentence(tiny, dataset):
    nameless = dataclasses.replace(dataset, env_id=None)
    with pytest.raises(UserError, match="does not name its environment; give it with --env"):
        resolved(tiny(env=""), nameless, None)


@pytest.mark.parametrize(
    "options", [{"env": "Made-v0"}, {"given": lambda: Made()}, {"given": Made}]
)
def test_one_that_is_enough_is_made_once(found, options):
    """The one that was tried is used; a class is a factory too."""
    known = found(**options, eval_episodes=0)
    assert (Made.count, Made.closed, known.task.horizon) == (1, 0, pointmass.HORIZON)
    envs = known.make(1)
    assert (Made.count, Made.closed) == (1, 0)
    known.close(envs)
    known.release()
    assert Made.closed == 1


def test_one_that_nobody_needed_is_closed(found):
    found(Made, n=0).release()
    assert (Made.count, Made.closed) == (1, 1)


@pytest.mark.parametrize("options", [{"env": "Made-v0"}, {"given": Made}])
def test_the_one_that_was_tried_is_not_used_where_there_are_others(found, options):
    """So that the trial changes no episode, whatever an environment keeps from one to the next."""
    known = found(**options, n=3)
    assert Made.count == Made.closed == 2  # two, to see that there may be
    known.close(known.make(3))
    assert Made.count == Made.closed == 5


def test_an_environment_that_allows_no_second_one(found):
    Made.most = 1
    with pytest.raises(BadEnvironment, match=r"port is taken\) while another one was open, and 3"):
        found(env="Made-v0", n=3)
    assert Made.closed == 1
    assert len(found(env="Made-v0", n=1, eval_episodes=0).make(1)) == 1


def test_an_object_is_used_as_it_is_and_left_open(found):
    env = Made()
    known = found(env)
    assert known.make(1)[0].env is env and Made.count == 1
    known.close(known.make(1))
    known.release()
    assert Made.closed == 0


# Trying it out


class Broken(pointmass.PointMass):
    def step(self, action):
        raise SystemExit(3)


@pytest.mark.parametrize("options", [{"given": Broken}, {"given": Broken()}])
def test_an_environment_that_fails_is_refused_at_once(found, options):
    with pytest.raises(BadEnvironment, match=r"failed \(SystemExit: 3\) in step 1.*; mend the env"):
        found(**options)


def test_a_function_that_fails_is_one_sentence(found):
    with pytest.raises(BadEnvironment, match=r"could not make an environment \(ZeroDivision"):
        found(lambda: 1 / 0)


def test_without_a_time_limit_nothing_is_evaluated(found):
    with pytest.raises(UserError, match=r"has no time limit.*give --max-episode-steps"):
        found(pointmass.PointMass)
    assert found(pointmass.PointMass, eval_episodes=0).task.horizon is None
    for given in (pointmass.PointMass, pointmass.PointMass()):
        known = found(given, max_episode_steps=5)
        assert known.task.horizon == 5
        (env,) = known.make(1)
        env.reset(seed=0)
        assert [env.step(np.zeros(2, np.float32))[3] for _ in range(5)] == [False] * 4 + [True]
    assert found(max_episode_steps=7).task.horizon == 7


# Its full identity


def spec(env_id="PointMass-v0", **parts):
    return json.dumps({"id": env_id, "kwargs": {}, "additional_wrappers": [], **parts})


def test_the_data_say_how_their_environment_was_made(tiny, dataset):
    known = dataclasses.replace(dataset, metadata={"env_spec": spec(max_episode_steps=9)})
    config = resolved(tiny(env=""), known, None)
    assert (config.env, config.env_spec) == (pointmass.ENV, known.metadata["env_spec"])
    assert find_environments(config, None, 1).task.horizon == 9
    assert resolved(config, known, None) == config
    # The run knows it without the data; an option wins; another environment is another.
    assert resolved(config, dataset, None) == config
    both = dataclasses.replace(config, max_episode_steps=5)
    assert find_environments(both, None, 1).task.horizon == 5
    assert resolved(tiny(env="Hopper-v4"), known, None).env_spec == ""
    assert resolved(tiny(env="PointMass-v0"), known, None).env_spec  # without its module
    assert resolved(tiny(env=""), known, Made).env_spec == ""
    assert resolved(tiny(env=""), known, Made).env == OUTSIDE
    broken = dataclasses.replace(dataset, metadata={"env_spec": "{"})
    with pytest.raises(UserError, match=r"env_spec is '{'; it must be a JSON object"):
        resolved(tiny(env=""), broken, None)


def test_hopper_is_trained_in_the_hopper_of_its_data(tiny, dataset):
    arguments = {
        "terminate_when_unhealthy": False,
        "exclude_current_positions_from_observation": False,
    }
    text = spec("Hopper-v5", kwargs=arguments, max_episode_steps=1000)
    known = dataclasses.replace(dataset, env_id="Hopper-v5", metadata={"env_spec": text})
    environments = find_environments(resolved(tiny(env=""), known, None), None, 1)
    assert environments.task == Task("Hopper-v5", 12, 3, 1000, (-20.272305, 3234.3))
    env = environments.make(1)[0].unwrapped
    assert env._terminate_when_unhealthy is False
    plain = find_environments(resolved(tiny(env="", env_kwargs="{}"), known, None), None, 1)
    assert plain.task.obs_dim == 11


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
        found(given)


def test_actions_of_a_given_environment_are_scaled(found):
    env = Made()
    env.action_space = gymnasium.spaces.Box(-2.0, 2.0, (2,), np.float32)
    (used,) = found(env).make(1)
    assert used is not env and used.unwrapped is env.unwrapped
    assert (used.action_space.low == -1).all() and (used.action_space.high == 1).all()


def test_only_the_data_set_may_know_the_reference_returns(monkeypatch):
    task = Task("E", 2, 2)
    assert scored(task, "in memory") == task
    # D4RL's sets of environments that the package cannot make; the others have them by their task.
    assert scored(task, "d4rl/pen-human-v1").reference_returns is not None
    assert scored(task, "stratdiff/hopper-medium") == task
    known = Task("E", 2, 2, reference_returns=(0.0, 7.0))
    monkeypatch.setattr(environments, "locate", lambda name: pytest.fail("not asked"))
    assert scored(known, "d4rl/pen-human-v1") is known
