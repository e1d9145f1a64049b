"""Minari data sets that are written here, read with Minari itself and by our own source."""

import sys

import gymnasium
import minari
import numpy as np
import pointmass
import pytest
from gymnasium.spaces import Box
from logged import Walk, assert_same_transitions, make_arrays, minari_transitions, qlearning_dataset

from stratdiff.cli import main
from stratdiff.data import hdf5
from stratdiff.data.sources import load_dataset
from stratdiff.data.tools.convert import convert
from stratdiff.errors import RunStopped, UserError

NAME = "minari/own/walk-v0"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "store"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "in.hdf5"


@pytest.mark.parametrize("terminal_last", [False, True])
def test_every_transition_is_there(path, terminal_last):
    """By D4RL's loop over the file, and by Minari's own episodes; then by our own source."""
    arrays = make_arrays(40)
    arrays["terminals"][[10, 11, 25]] = True
    arrays["timeouts"][[0, 30]] = True  # a trajectory without any step, and one without its last
    if terminal_last:
        arrays["terminals"][39] = True
    hdf5.write(path, arrays, "", {"author": "me", "name": "mine"})
    convert(str(path), NAME)
    episodes = list(minari.load_dataset("own/walk-v0"))
    found = minari_transitions(episodes)
    expected = list(zip(*qlearning_dataset(arrays), strict=True))
    assert len(found) == len(expected)
    for ours, theirs in zip(expected, found, strict=True):
        for a, b, name in zip(ours, theirs, ("s", "a", "r", "after", "end"), strict=True):
            if name != "after" or not ours[4]:
                np.testing.assert_array_equal(a, b)
    for episode in episodes:
        assert len(episode.observations) == len(episode.rewards) + 1
        flags = episode.terminations | episode.truncations
        assert flags[-1] and not flags[:-1].any()
        if episode.terminations[-1]:  # the one that is not known
            np.testing.assert_array_equal(*episode.observations[-2:])
    dataset = load_dataset(NAME)
    assert_same_transitions(dataset, found)
    assert dataset.metadata["author"] == "me"
    assert "from mine" in minari.load_dataset("own/walk-v0").storage.metadata["description"]


def test_there_and_back_is_the_same_file(path, tmp_path):
    """Where a last observation closes every cut episode, as in all files that we write."""
    hdf5.write(path, pointmass.make_arrays(5), pointmass.ENV)
    convert(str(path), NAME)
    convert(NAME, str(tmp_path / "first.hdf5"))
    convert(str(tmp_path / "first.hdf5"), "minari/own/walk-v1")
    convert("minari/own/walk-v1", str(tmp_path / "second.hdf5"))
    first, second = (hdf5.read(tmp_path / f"{name}.hdf5") for name in ("first", "second"))
    assert first.fingerprint == second.fingerprint
    assert second.env_id == pointmass.ENV
    assert [e.shape for e in (first.observations, second.observations)] == [(200, 2)] * 2


class Scaled(Walk):
    action_space = Box(np.array([0, -30], np.float32), np.array([2, 10], np.float32))


def test_actions_are_within_the_environments_bounds(path):
    if "ScaledWalk-v0" not in gymnasium.registry:
        gymnasium.register("ScaledWalk-v0", "test_to_minari:Scaled", max_episode_steps=9)
    hdf5.write(path, make_arrays(), "ScaledWalk-v0")
    convert(str(path), NAME)
    written = minari.load_dataset("own/walk-v0")
    assert written.action_space == Scaled.action_space
    assert written.recover_environment().spec.max_episode_steps == 9
    raw = np.concatenate([e.actions for e in written])
    unit = qlearning_dataset(make_arrays())[1]
    np.testing.assert_allclose(raw, [[1 + a, -10 + 20 * b] for a, b in unit], atol=1e-5)
    dataset = load_dataset(NAME)
    np.testing.assert_allclose(dataset.actions[dataset.transitions], unit, atol=1e-6)
    assert dataset.env_id == "ScaledWalk-v0"


def test_what_is_refused(path, store, capsys, monkeypatch):
    hdf5.write(path, make_arrays(), "Nothing-v0")
    assert main(["data", "convert", str(path), "minari/walk"]) == 2
    assert "no Minari name" in capsys.readouterr().err
    assert main(["data", "convert", str(path), NAME]) == 2
    assert "'Nothing-v0' is not registered" in capsys.readouterr().err
    assert not (store / "own" / "walk-v0").exists()
    hdf5.write(path, make_arrays(), "")
    convert(str(path), NAME)
    with pytest.raises(UserError, match=r"already exists in .*another version"):
        convert(str(path), NAME)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "minari", None)
        with pytest.raises(UserError, match=r"pip install 'stratdiff\[minari\]'"):
            convert(str(path), "minari/own/walk-v1")
    (store / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(store / "file"))
    with pytest.raises(RunStopped, match="could not be written"):
        convert(str(path), NAME)
