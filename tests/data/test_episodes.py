"""Files that keep episodes apart."""

import h5py
import numpy as np
import pytest
from test_layouts import LENGTHS, assert_read, make_episodes, refused, steps

from stratdiff.data import hdf5
from stratdiff.data.tools.convert import convert


@pytest.fixture
def path(tmp_path):
    return tmp_path / "theirs.hdf5"


def write_groups(path, name, arrays_of):
    with h5py.File(path, "w") as file:
        # Written in another order than that of their numbers.
        for i, episode in reversed([*enumerate(make_episodes())]):
            for key, array in arrays_of(*episode).items():
                file[f"{name.format(i)}/{key}"] = array
    return path


def test_minari(path):
    def arrays(obs, actions, rewards, terminal):
        last = np.arange(len(rewards)) == len(rewards) - 1
        flags = {"terminations": last & terminal, "truncations": last & (not terminal)}
        return {"observations": obs, "actions": actions, "rewards": rewards} | flags

    write_groups(path, "episode_{}", arrays)
    # The last observations are there, so no step is lost.
    assert_read(hdf5.read_logged(path), steps(make_episodes(), whole=True))


def test_d3rlpy(path):
    with h5py.File(path, "w") as file:
        file["columns"] = ["observations", "actions", "rewards", "terminated"]
        file["num_episodes"] = len(LENGTHS)
        file["version"] = "2.1"
        for i, (obs, actions, rewards, terminal) in enumerate(make_episodes()):
            file[f"observations_{i}"] = obs[:-1]
            file[f"actions_{i}"] = actions
            file[f"rewards_{i}"] = rewards[:, None]
            file[f"terminated_{i}"] = terminal
    assert_read(hdf5.read_logged(path), steps(make_episodes()))


def robomimic(obs, actions, rewards, terminal, success):
    last = np.arange(len(rewards)) == len(rewards) - 1
    return {
        "obs/a": obs[:-1, :1],
        "obs/b": obs[:-1, 1:],
        "next_obs/a": obs[1:, :1],
        "actions": actions,
        "rewards": rewards,
        "dones": last & (terminal or not success),
        "states": np.zeros((len(rewards), 9)),
    }


def test_robomimic(path, tmp_path):
    write_groups(path, "data/demo_{}", lambda *episode: robomimic(*episode, success=True))
    refused(path, "'data/demo_0/obs' is a group (a, b)", "--keys observations=obs/")
    out = str(tmp_path / "out.hdf5")
    convert(str(path), out, keys=["observations=obs/a,obs/b"])
    assert_read(hdf5.read_logged(out), steps(make_episodes()))


def test_dones_at_every_end_are_unclear(path, tmp_path):
    write_groups(path, "data/demo_{}", lambda *episode: robomimic(*episode, success=False))
    out = str(tmp_path / "out.hdf5")
    keys = ["observations=obs/a,obs/b"]
    with pytest.raises(hdf5.UserError, match=r"'dones' may or may not .*--keys ends=dones"):
        convert(str(path), out, keys=keys)
    convert(str(path), out, keys=[*keys, "ends=dones"])
    dataset = hdf5.read_logged(out)
    assert np.count_nonzero(dataset.ends) == 5 and not dataset.terminals.any()


def test_an_episode_of_other_lengths(path):
    def arrays(obs, actions, rewards, terminal):
        return {"observations": obs[:-1], "actions": actions, "rewards": rewards[:-1]}

    refused(
        write_groups(path, "episode_{}", arrays), "episode 0", "'rewards' has 3 rows", "4 steps"
    )
