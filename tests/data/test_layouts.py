"""Layouts of other libraries: what is understood, and what is refused with the command to use."""

import h5py
import numpy as np
import pytest

from stratdiff.data import hdf5
from stratdiff.data.tools.convert import convert
from stratdiff.errors import UserError

LENGTHS = (4, 6, 3, 7, 5)
TERMINAL = (True, False, True, False, False)


def make_episodes(seed=0):
    """Episodes with their last observations: (observations T + 1, actions, rewards, terminal)."""
    rng = np.random.default_rng(seed)
    return [
        (
            rng.normal(size=(n + 1, 3)).astype(np.float32),
            rng.uniform(-1, 1, (n, 2)).astype(np.float32),
            rng.normal(size=n).astype(np.float32),
            terminal,
        )
        for n, terminal in zip(LENGTHS, TERMINAL, strict=True)
    ]


def flat(episodes):
    """One row a step, as most libraries write them."""
    rows = [len(rewards) for _, _, rewards, _ in episodes]
    last = np.isin(np.arange(sum(rows)), np.cumsum(rows) - 1)
    terminal = np.repeat([end for *_, end in episodes], rows) & last
    return {
        "observations": np.concatenate([obs[:-1] for obs, *_ in episodes]),
        "actions": np.concatenate([actions for _, actions, *_ in episodes]),
        "rewards": np.concatenate([rewards for _, _, rewards, _ in episodes]),
        "terminals": terminal,
        "timeouts": last & ~terminal,
        "next_observations": np.concatenate([obs[1:] for obs, *_ in episodes]),
    }


def steps(episodes, whole=False):
    """Every transition by a loop; where the last observation of a cut episode is kept: `whole`."""
    return [
        (obs[t], actions[t], rewards[t], obs[t + 1], terminal and t == len(rewards) - 1)
        for obs, actions, rewards, terminal in episodes
        for t in range(len(rewards) - (not terminal and not whole))
    ]


def assert_read(dataset, expected, ends=5):
    assert len(dataset) == len(expected)
    assert np.count_nonzero(dataset.ends) == ends
    for row, (obs, action, reward, after, terminal) in zip(
        dataset.transitions, expected, strict=True
    ):
        np.testing.assert_array_equal(dataset.observations[row], obs)
        np.testing.assert_array_equal(dataset.actions[row], action)
        assert (dataset.rewards[row], dataset.terminals[row]) == (reward, terminal)
        if not terminal:
            np.testing.assert_array_equal(dataset.observations[row + 1], after)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "theirs.hdf5"


def write(path, arrays):
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return path


def refused(path, *words):
    with pytest.raises(UserError) as caught:
        hdf5.read_logged(path)
    for word in (str(path), *words):
        assert word in str(caught.value), (word, str(caught.value))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800


def renamed(arrays, **names):
    """The arrays under other names; those with the name '' are left out."""
    return {names.get(key, key): array for key, array in arrays.items() if names.get(key, key)}


ARRAYS = flat(make_episodes())
ENDS = ARRAYS["terminals"] | ARRAYS["timeouts"]
NO_NEXT = renamed(ARRAYS, next_observations="")
UNMARKED = renamed(NO_NEXT, timeouts="")
# d3rlpy 1, OGBench's single task, Gymnasium's names, JAX-RL, episode numbers, ends as row numbers.
UNDERSTOOD = {
    "d4rl": (NO_NEXT, ""),
    "next rows": (ARRAYS, ""),
    "truncations": (renamed(NO_NEXT, timeouts="truncations"), "`truncations` as timeouts"),
    "gymnasium": (
        renamed(NO_NEXT, terminals="terminations", timeouts="truncations", observations="obs"),
        "`obs` as observations",
    ),
    "d3rlpy": (UNMARKED | {"episode_terminals": ENDS}, "`episode_terminals` as ends"),
    "jaxrl": (
        renamed(UNMARKED, terminals="") | {"masks": ~ARRAYS["terminals"], "dones_float": ENDS},
        "`dones_float` as ends",
    ),
    "ogbench": (
        renamed(ARRAYS, timeouts="") | {"terminals": ENDS, "masks": 1.0 - ARRAYS["terminals"]},
        "`masks` as not terminals",
    ),
    "dones and timeouts": (renamed(NO_NEXT, terminals="") | {"dones": ENDS}, "`dones`"),
    "dones and terminals": (UNMARKED | {"dones": ENDS}, "`dones` as ends"),
    "numbers": (
        UNMARKED | {"episode_id": np.repeat(np.arange(5), LENGTHS)},
        "trajectories by `episode_id`",
    ),
    "starts": (UNMARKED | {"episode_starts": np.roll(ENDS, 1)}, "by `episode_starts`"),
    "row numbers": (UNMARKED | {"episode_ends": np.cumsum(LENGTHS)}, "`episode_ends` as ends"),
    "next observations alone": (renamed(ARRAYS, timeouts=""), "2 rows as cut off"),
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_understood(path, case):
    arrays, note = UNDERSTOOD[case]
    dataset = hdf5.read_logged(write(path, arrays))
    # The last row of all is the end of a trajectory that nothing marks where only the next
    # observations tell, or where the next trajectory would start.
    unmarked = case in ("next observations alone", "numbers", "starts")
    assert_read(dataset, steps(make_episodes()), 4 if unmarked else 5)
    assert note in dataset.metadata.get("read", "")
    assert bool(note) == ("read" in dataset.metadata)


@pytest.mark.parametrize(("lengths", "complete"), [((4, 4, 1), 2), ((4, 4, 4), 3), ((9,), 1)])
def test_a_last_trajectory_that_the_file_may_cut_off(path, lengths, complete):
    """A number says where the next trajectory starts, not where the last one ends."""
    n = sum(lengths)
    arrays = {
        "observations": np.arange(n, dtype=np.float32)[:, None],
        "actions": np.full((n, 1), 0.5, np.float32),
        "rewards": np.ones(n, np.float32),
        "terminals": np.zeros(n, bool),
        "episode_id": np.repeat(np.arange(len(lengths)), lengths),
    }
    assert len(hdf5.read_logged(write(path, arrays)).episode_returns) == complete


NUMBERS = {"episode_id": np.repeat(np.arange(5), LENGTHS)}


@pytest.mark.parametrize(
    ("arrays", "complete"),
    [
        (NO_NEXT | NUMBERS, 5),  # timeouts
        (UNMARKED | NUMBERS | {"dones": ENDS}, 5),
        (renamed(UNMARKED, terminals="") | NUMBERS | {"dones": ENDS & ARRAYS["terminals"]}, 4),
        (NO_NEXT | NUMBERS | {"timeouts": ARRAYS["timeouts"] & (np.arange(25) < 24)}, 4),
    ],
)
def test_another_array_tells_how_the_last_of_numbered_trajectories_ends(path, arrays, complete):
    dataset = hdf5.read_logged(write(path, arrays))
    assert_read(dataset, steps(make_episodes()), complete)


OTHER = np.roll(ARRAYS["timeouts"], 1)
CONTRADICTORY = {
    "two time limits": (NO_NEXT | {"truncations": OTHER}, "--keys timeouts=timeouts"),
    "two terminals": (NO_NEXT | {"terminations": OTHER}, "--keys terminals=terminals"),
    "time limits and ends": (
        NO_NEXT | {"episode_terminals": OTHER},
        "'timeouts' and 'episode_terminals' contradict each other at row 0",
    ),
    "masks": (NO_NEXT | {"masks": ~OTHER}, "'masks' and 'terminals'"),
    "dones": (NO_NEXT | {"dones": OTHER}, "'dones' and 'terminals'"),
    "dones alone": (renamed(UNMARKED, terminals="") | {"dones": ENDS}, "--keys ends=dones"),
    "numbers": (NO_NEXT | {"episode_id": np.arange(25)}, "'episode_id'"),
    "rlds": (UNMARKED | {"is_last": ENDS}, "'is_last'"),
    "shuffled": (
        {k: v[np.random.default_rng(1).permutation(25)] for k, v in ARRAYS.items()},
        "time order",
    ),
    "thinned out": ({k: v[::2] for k, v in ARRAYS.items()}, "time order"),
    "shape": (NO_NEXT | {"next_observations": np.zeros((25, 2))}, "(25, 2)"),
    "nothing": (renamed(NO_NEXT, terminals=""), "no array 'terminals'"),
    "names": ({f"key-{i:04}": np.zeros(3) for i in range(1000)}, "and 988 more"),
}


@pytest.mark.parametrize("case", CONTRADICTORY)
def test_contradictory(path, case):
    arrays, words = CONTRADICTORY[case]
    refused(write(path, arrays), words, f"stratdiff data convert {path} OUT.hdf5")


def test_different_lengths(path):
    refused(write(path, NO_NEXT | {"truncations": OTHER[:-1]}), "(rewards 25, truncations 24)")


def test_the_command_settles_it(path, tmp_path):
    write(path, NO_NEXT | {"truncations": OTHER})
    out = tmp_path / "out.hdf5"
    convert(str(path), str(out), keys=["timeouts=timeouts"])
    assert_read(hdf5.read_logged(out), steps(make_episodes()))
    out.unlink()
    with pytest.raises(UserError, match="--keys timeout=x"):
        convert(str(path), str(out), keys=["timeout=x"])
    write(path, renamed(UNMARKED, terminals="") | {"dones": ENDS})
    convert(str(path), str(out), keys=["ends=dones"])
    dataset = hdf5.read_logged(out)
    assert not dataset.terminals.any() and np.count_nonzero(dataset.ends) == 5


def test_shuffled_transitions_are_put_in_order(path, tmp_path):
    order = np.random.default_rng(1).permutation(25)
    arrays = renamed(ARRAYS, timeouts="")
    write(
        path, {key: array[order] for key, array in arrays.items()} | {"infos/qpos": order[:, None]}
    )
    out = tmp_path / "out.hdf5"
    convert(str(path), str(out))
    dataset = hdf5.read_logged(out)
    found = {(*dataset.observations[r], *dataset.observations[r + 1]) for r in dataset.transitions}
    expected = {(*obs, *after) for obs, _, _, after, terminal in steps(make_episodes())}
    ended = {(*obs,) for obs, *_, terminal in steps(make_episodes()) if terminal}
    assert {pair for pair in found if pair[:3] not in ended} == {
        pair for pair in expected if pair[:3] not in ended
    }
    assert np.count_nonzero(dataset.ends) == 5
    with h5py.File(out) as file:  # what belongs to a row goes with it
        qpos = file["infos/qpos"][:, 0].astype(int)
        np.testing.assert_array_equal(file["observations"][:], ARRAYS["observations"][qpos])
    assert sorted(dataset.episode_returns) == pytest.approx(
        sorted(rewards.sum() for _, _, rewards, _ in make_episodes()), rel=1e-5
    )


@pytest.mark.parametrize("arrays", [ARRAYS, UNDERSTOOD["ogbench"][0], UNDERSTOOD["d3rlpy"][0]])
def test_npz(tmp_path, arrays):
    np.savez(tmp_path / "theirs.npz", **arrays)
    convert(str(tmp_path / "theirs.npz"), str(tmp_path / "out.hdf5"))
    assert_read(hdf5.read_logged(tmp_path / "out.hdf5"), steps(make_episodes()))
