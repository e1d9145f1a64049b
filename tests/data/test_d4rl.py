"""D4RL-format files: what is read, what is refused and in which words."""

import h5py
import jax.numpy as jnp
import numpy as np
import pytest

from stratdiff.data import d4rl
from stratdiff.errors import UserError
from stratdiff.train.state import DeviceData

ROWS = 12


def make_arrays(rows=ROWS):
    """A terminal at row 3, a time limit at row 7, the rest cut off."""
    rng = np.random.default_rng(0)
    terminals, timeouts = np.zeros(rows, bool), np.zeros(rows, bool)
    terminals[3:4], timeouts[7:8] = True, True
    return {
        "observations": rng.normal(size=(rows, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def write_raw(path, arrays):
    """With h5py alone, so that reading is not tested by our own writer; None: a group."""
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            if array is None:
                file.create_group(key)
            else:
                file.create_dataset(key, data=array)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some-data.hdf5"


def qlearning_dataset(arrays):
    """D4RL's loop over the rows of a file with timeouts."""
    out = []
    for i in range(len(arrays["rewards"]) - 1):
        if arrays["timeouts"][i]:
            continue
        out.append(
            (
                arrays["observations"][i],
                arrays["actions"][i],
                arrays["rewards"][i],
                arrays["observations"][i + 1],
                bool(arrays["terminals"][i]),
            )
        )
    return [np.stack(column) for column in zip(*out, strict=True)]


# Good files


def test_transitions_are_those_of_d4rl(path):
    arrays = make_arrays()
    # The stored next observations are not used.
    write_raw(path, arrays | {"next_observations": np.full((ROWS, 3), 7.0)})
    dataset = d4rl.read(path)
    data = DeviceData(
        *(jnp.asarray(x) for x in (dataset.observations, dataset.actions, dataset.rewards)),
        terminal=jnp.asarray(dataset.terminals),
        mc_return=jnp.zeros(ROWS),
        rows=jnp.asarray(dataset.transitions),
    )
    batch = data.take(jnp.arange(len(dataset)))
    expected = qlearning_dataset(arrays)
    assert len(dataset) == len(expected[0]) == ROWS - 2
    found = (batch.obs, batch.action, batch.reward, batch.next_obs, batch.terminal)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.flatnonzero(dataset.ends), [3, 7])


def test_round_trip(path):
    arrays = make_arrays()
    d4rl.write(path, arrays, "HalfCheetah-v4")
    dataset = d4rl.read(path)
    for key in ("observations", "actions", "rewards", "terminals"):
        np.testing.assert_array_equal(getattr(dataset, key), arrays[key])
    np.testing.assert_array_equal(dataset.ends, arrays["terminals"] | arrays["timeouts"])
    assert dataset.env_id == "HalfCheetah-v4"
    assert dataset.name == str(path)
    assert d4rl.read(path, name="mine").name == "mine"
    # Any D4RL reader finds the same arrays.
    with h5py.File(path) as file:
        for key, array in arrays.items():
            assert file[key].dtype == array.dtype
            np.testing.assert_array_equal(file[key], array)


def test_columns_float_terminals_and_doubles(path):
    arrays = make_arrays()
    plain = d4rl.read(write_raw(path, arrays))
    # AntMaze files hold float terminals, some tools write (N, 1), NumPy's default is double.
    odd = {
        "observations": arrays["observations"].astype(np.float64),
        "actions": arrays["actions"].astype(np.float64),
        "rewards": arrays["rewards"].astype(np.float64)[:, None],
        "terminals": arrays["terminals"].astype(np.float32)[:, None],
        "timeouts": arrays["timeouts"].astype(np.uint8),
    }
    dataset = d4rl.read(write_raw(path, odd))
    assert dataset.fingerprint == plain.fingerprint
    assert dataset.observations.dtype == dataset.rewards.dtype == np.float32
    assert dataset.terminals.dtype == bool


def test_other_keys_do_not_matter(path):
    arrays = make_arrays()
    plain = d4rl.read(write_raw(path, arrays))
    more = {
        "infos/qpos": np.zeros((ROWS, 4)),
        "infos/goal": np.full((ROWS, 2), np.nan),
        "metadata/algorithm": np.bytes_(b"SAC"),
        "metadata/iteration": np.int32(500),
        "metadata/policy/fc0/weight": np.zeros((3, 3)),
        "notes": np.array([b"a", b"bc"]),
    }
    assert d4rl.read(write_raw(path, arrays | more)).fingerprint == plain.fingerprint


def test_without_timeouts_the_horizon_cuts(path):
    arrays = make_arrays()
    del arrays["timeouts"]
    write_raw(path, arrays)
    dataset = d4rl.read(path, horizon=5)
    # Terminal at 3; D4RL counts from 1 after it, so it drops row 7; the fifth step is row 8.
    np.testing.assert_array_equal(np.flatnonzero(dataset.ends), [3, 8])
    np.testing.assert_array_equal(dataset.transitions, [0, 1, 2, 3, 4, 5, 6, 8, 9, 10])
    np.testing.assert_array_equal(np.flatnonzero(d4rl.read(path).ends), [3])
    # With timeouts in the file the horizon is not asked.
    write_raw(path, make_arrays())
    np.testing.assert_array_equal(
        d4rl.read(path, horizon=2).transitions, d4rl.read(path).transitions
    )


# Bad files: the message names the file and what is wrong


def refused(path, *words, **arguments):
    with pytest.raises(UserError) as caught:
        d4rl.read(path, **arguments)
    message = str(caught.value)
    for word in (str(path), *words):
        assert word in message, (word, message)
    assert "\n" not in message


def test_missing_file(path):
    refused(path, "does not exist")


@pytest.mark.parametrize("content", [b"", b"observations,actions\n1,2\n", b"\x89HDF\r\n\x1a\n"])
def test_not_hdf5(path, content):
    path.write_bytes(content)
    refused(path, "HDF5")


def test_cut_off_file(path):
    write_raw(path, make_arrays(2000))
    path.write_bytes(path.read_bytes()[:20_000])
    refused(path, "HDF5", "cut off")


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminals"])
def test_missing_key(path, key):
    arrays = make_arrays()
    del arrays[key]
    refused(write_raw(path, arrays), f"no array '{key}'", "found: ", "timeouts")
    # A group of that name is no array either.
    refused(write_raw(path, arrays | {key: None}), f"no array '{key}'")


def test_file_without_keys(path):
    refused(write_raw(path, {}), "no array 'observations'", "nothing")


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminals", "timeouts"])
def test_different_lengths(path, key):
    arrays = make_arrays()
    arrays[key] = arrays[key][:-2]
    refused(write_raw(path, arrays), "different length", f"{key} {ROWS - 2}", str(ROWS))


def test_nan(path):
    arrays = make_arrays()
    arrays["observations"][[2, 5, 9], [1, 0, 2]] = np.nan
    refused(write_raw(path, arrays), "observations", "3 values", "NaN", "(2, 1)")
    arrays = make_arrays()
    arrays["rewards"][8:] = np.inf
    refused(write_raw(path, arrays), "rewards", "4 values", "infinite", "(8,)")


def test_actions_out_of_range(path):
    arrays = make_arrays()
    arrays["actions"][4:6] = [[0.0, 2.5], [-3.0, 0.0]]
    refused(write_raw(path, arrays), "2 action values", "[-1, 1]", "2.5", "(4, 1)")


@pytest.mark.parametrize("key", ["observations", "rewards", "terminals"])
def test_text_instead_of_numbers(path, key):
    arrays = make_arrays()
    arrays[key] = np.full(arrays[key].shape, b"1.5")
    refused(write_raw(path, arrays), f"'{key}'", "numbers")


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("observations", (ROWS,)),
        ("observations", (ROWS, 3, 2)),
        ("actions", (ROWS,)),
        ("actions", ()),
        ("rewards", (ROWS, 1, 1)),
        ("terminals", ()),
        ("rewards", (ROWS, 3)),
        ("timeouts", (ROWS, 2)),
        ("rewards", (ROWS, 0)),
        ("observations", (ROWS, 0)),
        ("actions", (ROWS, 0)),
    ],
)
def test_wrong_number_of_dimensions(path, key, shape):
    write_raw(path, make_arrays() | {key: np.zeros(shape)})
    refused(path, f"'{key}'", str(shape), "expected")


@pytest.mark.parametrize("timeouts", [True, False])
def test_no_rows(path, timeouts):
    arrays = make_arrays(0)
    if not timeouts:
        del arrays["timeouts"]
    refused(write_raw(path, arrays), "0 rows", "no transition", horizon=5)


def test_no_transition(path):
    refused(write_raw(path, make_arrays(1)), "1 rows", "no transition")
    write_raw(path, make_arrays() | {"timeouts": np.ones(ROWS, bool)})
    refused(path, "12 rows", "no transition")


@pytest.mark.parametrize("key", ["terminals", "timeouts"])
def test_nan_flags(path, key):
    flags = make_arrays()[key].astype(np.float32)
    flags[5] = np.nan
    refused(write_raw(path, make_arrays() | {key: flags}), key, "NaN", "(5,)")


def test_group_of_timeouts(path):
    refused(write_raw(path, make_arrays() | {"timeouts": None}), "'timeouts'")


def test_damaged_chunk(path):
    with h5py.File(path, "w") as file:
        for key, array in make_arrays(2000).items():
            file.create_dataset(key, data=array, compression="gzip")
        start = file["observations"].id.get_chunk_info(0).byte_offset
    raw = bytearray(path.read_bytes())
    raw[start : start + 100] = bytes(100)
    path.write_bytes(raw)
    refused(path, "observations")


def test_array_without_values(path):
    # HDF5 can hold a data set of no shape at all.
    write_raw(path, make_arrays() | {"rewards": h5py.Empty("f4")})
    refused(path, "'rewards'")


def test_doubles_beyond_float32(path):
    arrays = make_arrays()
    arrays["rewards"] = arrays["rewards"].astype(np.float64)
    arrays["rewards"][4] = 1e300
    refused(write_raw(path, arrays), "rewards", "1 values", "(4,)")


# Writing


def test_failed_write_leaves_nothing(path):
    bad = make_arrays() | {"zzz": np.array([object()])}
    with pytest.raises(TypeError):
        d4rl.write(path, bad, "Hopper-v4")
    assert list(path.parent.iterdir()) == []


def test_failed_write_keeps_the_old_file(path):
    d4rl.write(path, make_arrays(), "Hopper-v4")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        d4rl.write(path, make_arrays(20) | {"zzz": np.array([object()])}, "Hopper-v4")
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


def test_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "data.hdf5"
    d4rl.write(path, make_arrays(), "Hopper-v4")
    d4rl.write(path, make_arrays(20), "Walker2d-v4")
    assert len(d4rl.read(path).rewards) == 20
    assert d4rl.read(path).env_id == "Walker2d-v4"
    assert list(path.parent.iterdir()) == [path]
