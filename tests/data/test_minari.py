"""Minari data sets, recorded here with Minari itself, against Minari's own episodes."""

import json
import sys

import gymnasium
import minari as minari_package
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from logged import NestedLike, Walk, assert_same_transitions, minari_transitions, record

from stratdiff.data.dataset import returns_to_go
from stratdiff.data.minari import Minari
from stratdiff.data.sources import Entry
from stratdiff.envs.identity import exact
from stratdiff.errors import UserError
from stratdiff.tasks import load_env

# Minari's collector leaves its folder of temporary files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up")


def load(name, progress=None):
    return Minari("minari/").load(Entry(name), progress=progress)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("terminal_at", "lengths"),
    [
        ((None, 4, None, 2), (5, 9, 1, 9)),  # the last episode ends in a terminal
        ((3, 1, None), (9, 9, 6)),  # ... in a time limit; an episode of one step
        ((None,), (1,)),
    ],
)
def test_every_step_is_a_transition(terminal_at, lengths):
    source = record(Walk(terminal_at), lengths)
    dataset = load("minari/own/walk-v0")
    assert_same_transitions(dataset, minari_transitions(source))
    assert dataset.name == "minari/own/walk-v0"
    assert dataset.env_id is None
    # One trajectory per episode, with its return.
    returns = [np.sum(e.rewards) for e in source]
    np.testing.assert_allclose(dataset.episode_returns, returns, atol=1e-5)
    expected = []
    for e in source:
        value = [0.0]
        for reward in e.rewards[::-1]:
            value.insert(0, reward + 0.9 * value[0])
        expected += value[:-1]
    found = returns_to_go(dataset.rewards, dataset.ends, 0.9)[dataset.transitions]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_environment_of_the_set():
    if "MinariPoint-v0" not in gymnasium.registry:
        # Minari stores where to find an environment, so it must be given as text.
        gymnasium.register("MinariPoint-v0", "pointmass:PointMass", max_episode_steps=10)
    source = record(gymnasium.make("MinariPoint-v0"), (20, 20), "point/random-v3")
    calls = []
    dataset = load("minari/point/random-v3", lambda *call: calls.append(call))
    assert dataset.env_id == "MinariPoint-v0"
    assert len(dataset) == 20
    assert not dataset.terminals.any()
    assert_same_transitions(dataset, minari_transitions(source))
    assert calls == [(1, 2), (2, 2)]


EVALUATION = '{"id": "Hopper-v4", "kwargs": {}, "additional_wrappers": []}'


def test_the_environment_of_the_set_in_full(store):
    env = gymnasium.make("Hopper-v5", terminate_when_unhealthy=False, max_episode_steps=7)
    record(env, (5,), "hopper/upright-v0")
    spec = load("minari/hopper/upright-v0").metadata["env_spec"]
    made = load_env(exact("Hopper-v5", spec))
    assert made.spec.max_episode_steps == 7
    assert made.unwrapped._terminate_when_unhealthy is False
    # Where its authors name another environment for evaluation, it is that one.
    path = store / "hopper" / "upright-v0" / "data" / "metadata.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"eval_env_spec": EVALUATION}))
    assert load("minari/hopper/upright-v0").env_id == "Hopper-v4"
    # Minari would make the environment that the file names to see its spaces.
    del about["action_space"]
    path.write_text(json.dumps(about | {"env_spec": '{"id": "E-v0", "entry_point": "evil:E"}'}))
    refused("minari/hopper/upright-v0", "its spaces are missing", "is not run for them")


@pytest.mark.parametrize("env_id", ["AdroitHandPen-v1", "FrankaKitchen-v1"])
@pytest.mark.filterwarnings("ignore:.*share an object")
def test_sets_recorded_in_gymnasium_robotics(env_id):
    """As Minari's D4RL/pen and D4RL/kitchen were: data and the environment that they name agree."""
    made = load_env(env_id)  # registers it
    made.close()
    env = gymnasium.make(env_id, max_episode_steps=7)
    source = record(env, (7, 7), "hand/random-v0")
    dataset = load("minari/hand/random-v0")
    space = gymnasium.make(env_id).observation_space

    def to_flat(obs, t):
        if isinstance(obs, dict):
            return gymnasium.spaces.flatten(space, at(obs, t))
        return obs[t]

    def at(obs, t):
        return {k: at(v, t) if isinstance(v, dict) else v[t] for k, v in obs.items()}

    assert_same_transitions(dataset, minari_transitions(source, to_flat))
    again = load_env(exact(dataset.env_id, dataset.metadata["env_spec"]))
    assert again.spec.max_episode_steps == 7
    obs, _ = again.reset(seed=0)  # as the collector did
    np.testing.assert_array_equal(obs.astype(np.float32), dataset.observations[0])
    obs, reward, *_ = again.step(dataset.actions[0])
    np.testing.assert_allclose(obs, dataset.observations[1], atol=1e-5)
    assert reward == pytest.approx(float(dataset.rewards[0]), rel=1e-6)


class AntMazeLike(Walk):
    observation_space = Dict(
        achieved_goal=Box(-9, 9, (2,), np.float64),
        desired_goal=Box(-9, 9, (2,), np.float64),
        observation=Box(-9, 9, (27,), np.float64),
    )
    action_space = Box(-1, 1, (8,), np.float32)


def test_antmaze_has_d4rls_order():
    source = record(AntMazeLike((None, 2)), (3, 5))
    dataset = load("minari/own/walk-v0")
    assert dataset.observations.shape[1] == 29
    assert_same_transitions(
        dataset,
        minari_transitions(source, lambda o, t: [*o["achieved_goal"][t], *o["observation"][t]]),
    )


def test_other_dicts_are_flat_in_gymnasiums_order():
    env = NestedLike((None, 2))
    source = record(env, (3, 5))

    def to_flat(o, t):
        one = {"z": o["z"][t], "a": {"y": o["a"]["y"][t], "b": o["a"]["b"][t]}}
        return gymnasium.spaces.flatten(env.observation_space, one)

    dataset = load("minari/own/walk-v0")
    assert dataset.observations.shape[1] == 6
    assert_same_transitions(dataset, minari_transitions(source, to_flat))


class Scaled(Walk):
    action_space = Box(np.array([0, -30], np.float32), np.array([2, 10], np.float32))


def test_actions_are_scaled_from_the_bounds():
    source = record(Scaled(), (50,))
    dataset = load("minari/own/walk-v0")
    raw = np.concatenate([e.actions for e in source])
    # Gymnasium's wrapper leads back to what was stored.
    scale = gymnasium.wrappers.RescaleAction(Scaled(), np.float32(-1), np.float32(1))
    back = np.stack([scale.func(a) for a in dataset.actions[dataset.transitions]])
    np.testing.assert_allclose(back, raw, atol=1e-5)
    assert np.abs(dataset.actions).max() <= 1
    assert np.ptp(dataset.actions, axis=0).min() > 1.5


# What is refused, and in which words


def refused(name, *words):
    with pytest.raises(UserError) as caught:
        load(name)
    message = str(caught.value)
    for word in (name, *words):
        assert word in message, (word, message)
    assert "\n" not in message


@pytest.mark.parametrize("name", ["minari/walk", "minari/", "minari/../walk-v0", "minari//w-v0"])
def test_malformed_name(name):
    refused(name, "no Minari name", "mujoco/halfcheetah/medium-v0")


def test_neither_local_nor_downloaded(store, monkeypatch):
    def no_network(dataset_id):
        assert dataset_id == "mujoco/hopper/expert-v0"
        raise ConnectionError("name could not be resolved.\nmore")

    monkeypatch.setattr(minari_package, "download_dataset", no_network)
    refused(
        "minari/mujoco/hopper/expert-v0",
        f"not in Minari's local store '{store}'",
        "(name could not be resolved)",
        "`minari download mujoco/hopper/expert-v0`",
    )


def test_downloads_what_is_not_local(monkeypatch):
    monkeypatch.setattr(minari_package, "download_dataset", lambda name: record(Walk(), (4,), name))
    assert len(load("minari/far/walk-v1")) == 4
    # Then it is local.
    monkeypatch.setattr(minari_package, "download_dataset", None)
    assert len(load("minari/far/walk-v1")) == 4


def test_extra_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    refused("minari/own/walk-v0", "pip install 'stratdiff[minari]'")


def test_damaged_set(store):
    record(Walk(), (5, 5))
    main = store / "own" / "walk-v0" / "data" / "main_data.hdf5"
    whole = main.read_bytes()
    main.write_bytes(whole[: len(whole) // 2])
    refused("minari/own/walk-v0", str(store / "own" / "walk-v0"), "remove that folder")
    main.unlink()
    refused("minari/own/walk-v0", str(store / "own" / "walk-v0"), "remove that folder")


class DiscreteActions(Walk):
    action_space = Discrete(3)


class Unbounded(Walk):
    action_space = Box(-np.inf, np.inf, (2,), np.float32)


class DiscreteState(Walk):
    observation_space = Dict(state=Discrete(5))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (DiscreteActions, ("action space Discrete(3)", "flat Box")),
        (Unbounded, ("action space Box(-inf, inf", "bounds")),
        (DiscreteState, ("Discrete(5)", "real-valued")),
    ],
)
def test_spaces_that_cannot_be_learned(kind, words):
    record(kind(), (3,))
    refused("minari/own/walk-v0", *words)


def test_values_that_cannot_be_trained_on():
    class Broken(Walk):
        def observe(self):
            return np.full(3, np.nan)

    record(Broken(), (3,))
    refused("minari/own/walk-v0", "NaN")
