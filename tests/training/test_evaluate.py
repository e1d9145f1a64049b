"""Evaluation: paired episodes, environments made when first needed, the scores of a run again."""

import gymnasium
import numpy as np
import pytest
import runs

import stratdiff
from stratdiff.errors import UserError
from stratdiff.tasks import Task
from stratdiff.training.environments import Environments
from stratdiff.training.evaluate import Deterministic, Evaluator, episode_seed


def test_eval_repeats_the_scores_of_the_run(small_run):
    found = stratdiff.evaluate(small_run.directory, episodes=2, seed=None)
    assert found["score"] == pytest.approx(small_run.scores["after"], rel=1e-5)
    assert found["seeds"] == [0] and found["environment"] == small_run.config.env
    other = stratdiff.evaluate(small_run.directory, episodes=2, seed=99)
    assert other["score"] != found["score"]


def test_eval_needs_a_run_and_an_environment_by_name(tmp_path, small_run):
    with pytest.raises(UserError, match=r"is no run directory: it has no config\.json"):
        stratdiff.evaluate(tmp_path, episodes=2, seed=None)
    copy = runs.copy(small_run, tmp_path / "run")
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace(small_run.config.env, stratdiff.OUTSIDE))
    with pytest.raises(UserError, match="no environment by name; evaluate its policy in the prog"):
        stratdiff.evaluate(copy, episodes=2, seed=None)


class Counting(gymnasium.Env):
    """Ends after as many steps as its seed says; the reward is the first of the action."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    made, closed = 0, 0

    def __init__(self):
        type(self).made += 1

    def reset(self, *, seed=None, options=None):
        self.steps, self.length = 0, seed % 5 + 2
        return np.array([float(seed % 5)]), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1), float(action[0]), self.steps == self.length, False, {}

    def close(self):
        type(self).closed += 1


class Constant:
    """0.5 for the first seed's policy, 0.25 for the second's."""

    def mode(self, obs):
        actions = np.array([0.5, 0.25])[: len(obs), None, None]
        return np.broadcast_to(actions, (*obs.shape[:2], 1))


def evaluator(seeds=(3, 4), episodes=3, horizon=None):
    Counting.made = Counting.closed = 0
    task = Task("Counting", 1, 1, horizon)
    return Evaluator(Environments(task, Counting), seeds, episodes)


def test_every_episode_of_every_seed_runs_to_its_own_end():
    assert isinstance(Constant(), Deterministic)
    run = evaluator()
    lengths = np.array([[episode_seed(s, 1, e) % 5 + 2 for e in range(3)] for s in (3, 4)])
    assert len(set(lengths.flat)) > 1
    expected = lengths * [[0.5], [0.25]]
    np.testing.assert_allclose(run(Constant()), expected)
    np.testing.assert_allclose(run(Constant()), expected)  # the same episodes


def test_an_episode_that_does_not_end_is_cut_at_the_horizon():
    np.testing.assert_allclose(evaluator(horizon=2)(Constant()), [[1.0] * 3, [0.5] * 3])


@pytest.mark.parametrize(
    ("where", "value"),
    [("reward", np.nan), ("reward", -np.inf), ("obs", np.nan), ("reset", np.inf)],
)
def test_an_episode_that_is_not_finite_has_no_return(monkeypatch, where, value):
    run, bad = evaluator(), episode_seed(3, 1, 1)
    reset, step, taken = Counting.reset, Counting.step, []

    def bad_reset(self, *, seed=None, options=None):
        self.bad = seed == bad
        obs, info = reset(self, seed=seed)
        return (np.full(1, value) if self.bad and where == "reset" else obs), info

    def bad_step(self, action):
        obs, reward, *rest = step(self, action)
        if self.bad:
            taken.append(action)
            assert np.isfinite(action).all()
            obs, reward = (obs, value) if where == "reward" else (obs + value, reward)
        return obs, reward, *rest

    monkeypatch.setattr(Counting, "reset", bad_reset)
    monkeypatch.setattr(Counting, "step", bad_step)
    returns = run(Constant())
    assert np.isnan(returns[0, 1]) and np.isfinite(returns).sum() == 5
    assert len(taken) == (0 if where == "reset" else 1)  # it ends there


def test_environments_are_made_when_first_needed_and_closed():
    run = evaluator()
    assert Counting.made == 0
    run.close()
    assert Counting.closed == 0
    run(Constant())
    run(Constant())
    assert Counting.made == 6
    run.close()
    assert Counting.closed == 6


def test_seeds_of_episodes_are_their_own():
    seeds = {episode_seed(s, p, e) for s in range(3) for p in (0, 1) for e in range(20)}
    assert len(seeds) == 120 and all(0 <= seed < 2**31 for seed in seeds)
