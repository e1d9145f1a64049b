"""D4RL-format files: what is read, what is refused and in which words."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logged import ROWS, make_arrays, qlearning_dataset

from stratdiff import registry
from stratdiff.data import hdf5
from stratdiff.data.device import DeviceData
from stratdiff.errors import UserError


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


# Good files


def test_transitions_are_those_of_d4rl(path):
    arrays = make_arrays()
    # The stored next observations are not used.
    write_raw(path, arrays | {"next_observations": np.full((ROWS, 3), 7.0)})
    dataset = hdf5.read(path)
    data = DeviceData(
        *(jnp.asarray(x) for x in (dataset.observations, dataset.actions, dataset.rewards)),
        terminal=jnp.asarray(dataset.terminals),
        mc_return=jnp.zeros(ROWS),
        rows=jnp.asarray(dataset.transitions),
        mean=jnp.zeros(3),
        std=jnp.ones(3),
    )
    batch = data.take(jnp.arange(len(dataset)))
    expected = qlearning_dataset(arrays)
    assert len(dataset) == len(expected[0]) == ROWS - 2
    found = (batch.obs, batch.action, batch.reward, batch.next_obs, batch.terminal)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.flatnonzero(dataset.ends), [3, 7])


@st.composite
def marked_files(draw):
    """Arrays of 2 to 40 rows. Flags: any; rare; runs of terminals, as AntMaze has at the goal."""
    rows = draw(st.integers(2, 40))

    def flags():
        out = draw(
            st.lists(st.booleans(), min_size=rows, max_size=rows)
            | st.sets(st.integers(0, rows - 1), max_size=4).map(
                lambda places: [i in places for i in range(rows)]
            )
            | st.tuples(st.integers(0, rows - 1), st.integers(1, 6)).map(
                lambda run: [run[0] <= i < run[0] + run[1] for i in range(rows)]
            )
        )
        return np.array(out).astype(draw(st.sampled_from([bool, np.float32])))

    arrays = make_arrays(rows) | {"terminals": flags(), "timeouts": flags()}
    if draw(st.booleans()):
        del arrays["timeouts"]
    return arrays


@given(marked_files(), st.integers(2, 12))
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_file_gives_the_transitions_of_d4rl(path, arrays, horizon):
    write_raw(path, arrays)
    expected = qlearning_dataset(arrays, horizon)
    if not expected:
        refused(path, "no transition", horizon=horizon)
        return
    dataset = hdf5.read(path, horizon)
    rows = dataset.transitions
    found = (
        dataset.observations[rows],
        dataset.actions[rows],
        dataset.rewards[rows],
        dataset.observations[rows + 1],
        dataset.terminals[rows],
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_round_trip(path):
    arrays = make_arrays()
    hdf5.write(path, arrays, "HalfCheetah-v4")
    dataset = hdf5.read(path)
    for key in ("observations", "actions", "rewards", "terminals"):
        np.testing.assert_array_equal(getattr(dataset, key), arrays[key])
    np.testing.assert_array_equal(dataset.ends, arrays["terminals"] | arrays["timeouts"])
    assert dataset.env_id == "HalfCheetah-v4"
    assert dataset.name == str(path)
    assert hdf5.read(path, name="mine").name == "mine"
    # Any D4RL reader finds the same arrays.
    with h5py.File(path) as file:
        for key, array in arrays.items():
            assert file[key].dtype == array.dtype
            np.testing.assert_array_equal(file[key], array)


def test_columns_float_terminals_and_doubles(path):
    arrays = make_arrays()
    plain = hdf5.read(write_raw(path, arrays))
    # AntMaze files hold float terminals, some tools write (N, 1), NumPy's default is double.
    odd = {
        "observations": arrays["observations"].astype(np.float64),
        "actions": arrays["actions"].astype(np.float64),
        "rewards": arrays["rewards"].astype(np.float64)[:, None],
        "terminals": arrays["terminals"].astype(np.float32)[:, None],
        "timeouts": arrays["timeouts"].astype(np.uint8),
    }
    dataset = hdf5.read(write_raw(path, odd))
    assert dataset.fingerprint == plain.fingerprint
    assert dataset.observations.dtype == dataset.rewards.dtype == np.float32
    assert dataset.terminals.dtype == bool


def test_other_keys_do_not_matter(path):
    arrays = make_arrays()
    plain = hdf5.read(write_raw(path, arrays))
    more = {
        "infos/qpos": np.zeros((ROWS, 4)),
        "infos/goal": np.full((ROWS, 2), np.nan),
        "metadata/algorithm": np.bytes_(b"SAC"),
        "metadata/iteration": np.int32(500),
        "metadata/policy/fc0/weight": np.zeros((3, 3)),
        "notes": np.array([b"a", b"bc"]),
    }
    assert hdf5.read(write_raw(path, arrays | more)).fingerprint == plain.fingerprint


def test_without_timeouts_the_horizon_cuts(path):
    arrays = make_arrays()
    del arrays["timeouts"]
    write_raw(path, arrays)
    dataset = hdf5.read(path, horizon=5)
    # Terminal at 3; D4RL counts from 1 after it, so it drops row 7; the fifth step is row 8.
    np.testing.assert_array_equal(np.flatnonzero(dataset.ends), [3, 8])
    np.testing.assert_array_equal(dataset.transitions, [0, 1, 2, 3, 4, 5, 6, 8, 9, 10])
    np.testing.assert_array_equal(np.flatnonzero(hdf5.read(path).ends), [3])
    # With timeouts in the file the horizon is not asked.
    write_raw(path, make_arrays())
    np.testing.assert_array_equal(
        hdf5.read(path, horizon=2).transitions, hdf5.read(path).transitions
    )


def test_arrays_by_key(path):
    qpos = np.arange(ROWS * 4, dtype=np.float64).reshape(ROWS, 4) / 3
    more = {"infos/qpos": qpos, "infos/step": np.arange(ROWS), "rewards": np.ones((ROWS, 1))}
    write_raw(path, make_arrays() | more)
    keys = ["infos/qpos", "infos/qvel", "infos/step", "rewards", "terminals", "nothing"]
    found = hdf5.read_arrays(path, keys)
    assert list(found) == ["infos/qpos", "infos/step", "rewards", "terminals"]
    assert all(array.dtype == np.float32 for array in found.values())
    np.testing.assert_array_equal(found["infos/qpos"], qpos.astype(np.float32))
    np.testing.assert_array_equal(found["infos/step"], np.arange(ROWS))
    np.testing.assert_array_equal(found["rewards"], np.ones(ROWS))
    np.testing.assert_array_equal(found["terminals"], make_arrays()["terminals"])
    with pytest.raises(UserError, match="'infos' is a group"):
        hdf5.read_arrays(path, ["infos"])


def test_metadata(path):
    metadata = {"name": "stratdiff/hopper-random", "recipe": 3, "seed": 0, "noise": 0.25}
    hdf5.write(path, make_arrays(), "Hopper-v4", metadata)
    found = hdf5.read_attributes(path)
    assert found == {"env_id": "Hopper-v4", **metadata}
    assert {type(value) for value in found.values()} == {str, int, float}
    hdf5.write(path, make_arrays(), "Hopper-v4")
    assert hdf5.read_attributes(path) == {"env_id": "Hopper-v4"}


def test_attributes_of_others(path):
    with h5py.File(write_raw(path, make_arrays()), "r+") as file:
        file.attrs["env_id"] = np.bytes_(b"Hopper-v4")
        file.attrs["steps"] = np.int32(5)
        file.attrs["sizes"] = np.arange(3)
        file.attrs["empty"] = h5py.Empty("f4")
    assert hdf5.read_attributes(path) == {"env_id": "Hopper-v4", "steps": 5}
    assert hdf5.read(path).env_id == "Hopper-v4"


MEASURE = """
import sys
from pathlib import Path
from stratdiff.data import hdf5

def peak():
    # Not getrusage, whose figure begins with that of the parent process.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

before = peak()
data = hdf5.read(sys.argv[1])
fields = ("observations", "actions", "rewards", "terminals", "ends", "transitions")
print((peak() - before) / sum(getattr(data, field).nbytes for field in fields))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("dtype", "obs_dim"), [(np.float32, 17), (np.float64, 64)])
def test_memory(path, dtype, obs_dim):
    """At most 2.5 times the arrays, also where the file has doubles."""
    rows = 300_000 * 17 // obs_dim
    arrays = {
        "observations": np.zeros((rows, obs_dim), dtype),
        "actions": np.zeros((rows, 6), dtype),
        "rewards": np.zeros(rows, dtype),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.zeros(rows, bool),
    }
    # Kept in the file's other arrays, which must not be read.
    write_raw(path, arrays | {"next_observations": arrays["observations"]})
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, text=True
    )
    assert 1 < float(run.stdout) < 2.5


# Bad files: the message names the file and what is wrong


def refused(path, *words, **arguments):
    with pytest.raises(UserError) as caught:
        hdf5.read(path, **arguments)
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


def test_damaged_chunk_of_any_key(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("infos/qpos", data=np.ones((2000, 3)), compression="gzip")
        start = file["infos/qpos"].id.get_chunk_info(0).byte_offset
    raw = bytearray(path.read_bytes())
    raw[start : start + 100] = bytes(100)
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"'infos/qpos' could not be read .* damaged") as caught:
        hdf5.read_arrays(path, ["infos/qpos"])
    assert str(path) in str(caught.value)


def test_damaged_directory(path):
    """The signature of the root group's B-tree is gone: the file opens, its keys do not."""
    raw = bytearray(write_raw(path, make_arrays()).read_bytes())
    for place in range(len(raw)):
        if raw[place : place + 4] == b"TREE":
            raw[place : place + 4] = b"XXXX"
    path.write_bytes(raw)
    refused(path, "could not be read", "damaged")
    with pytest.raises(UserError, match="damaged"):
        hdf5.read_arrays(path, ["rewards"])


def test_arrays_and_attributes_of_a_bad_file(path):
    for content in (None, b"", b"no hdf5"):
        if content is not None:
            path.write_bytes(content)
        for read in (
            lambda: hdf5.read_arrays(path, ["rewards"]),
            lambda: hdf5.read_attributes(path),
        ):
            with pytest.raises(UserError, match="does not exist" if content is None else "HDF5"):
                read()


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
        hdf5.write(path, bad, "Hopper-v4")
    assert list(path.parent.iterdir()) == []


def test_failed_write_keeps_the_old_file(path):
    hdf5.write(path, make_arrays(), "Hopper-v4")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        hdf5.write(path, make_arrays(20) | {"zzz": np.array([object()])}, "Hopper-v4")
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


def test_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "data.hdf5"
    hdf5.write(path, make_arrays(), "Hopper-v4")
    hdf5.write(path, make_arrays(20), "Walker2d-v4")
    assert len(hdf5.read(path).rewards) == 20
    assert hdf5.read(path).env_id == "Walker2d-v4"
    assert list(path.parent.iterdir()) == [path]


def unwritable(path, *words):
    with pytest.raises(UserError) as caught:
        hdf5.write(path, make_arrays(), "Hopper-v4")
    message = str(caught.value)
    for word in (str(path), "could not be written", *words):
        assert word in message, (word, message)
    assert "\n" not in message


def test_no_space(path, monkeypatch):
    usage = shutil.disk_usage(path.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=50 * 1024))
    unwritable(path, "it needs 0.1 MiB", "0.0 MiB are free")
    assert list(path.parent.iterdir()) == []


WRITE_TOO_MUCH = """
import resource, sys
import numpy as np
from stratdiff.data import hdf5
from stratdiff.errors import UserError

resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    hdf5.write(sys.argv[1], {"observations": np.zeros((100_000, 5))}, "Hopper-v4")
except UserError as error:
    print(error)
"""


def test_no_space_that_shows_while_writing(path):
    """h5py then raises one error on writing and another of another kind on closing."""
    path.write_bytes(b"old")
    run = subprocess.run(
        [sys.executable, "-c", WRITE_TOO_MUCH, str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"{str(path)!r} could not be written (File too large)" in run.stdout
    assert run.stdout.count("\n") == 1
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_folder_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    unwritable(tmp_path / "file" / "data.hdf5", "File exists")
    (tmp_path / "folder.hdf5").mkdir()
    unwritable(tmp_path / "folder.hdf5", "Is a directory")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.hdf5"]


# Files that read more than themselves, or less than they say


def hostile(path, change):
    """A good file in which `change` puts something in place of the rewards."""
    arrays = make_arrays()
    del arrays["rewards"]
    write_raw(path, arrays)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def external(file):
    (secret := Path(file.filename).with_name("secret")).write_bytes(bytes(48))
    file.create_dataset("rewards", (12,), "f4", external=[(str(secret), 0, 48)])


def virtual(file):
    layout = h5py.VirtualLayout((12,), "f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "rewards", (12,))
    file.create_virtual_dataset("rewards", layout)


def link_to_a_pipe(file):
    os.mkfifo(pipe := Path(file.filename).with_name("pipe"))
    file["rewards"] = h5py.ExternalLink(str(pipe), "rewards")


def soft_link(file):
    file["elsewhere"] = h5py.ExternalLink("other.hdf5", "/")
    file["rewards"] = h5py.SoftLink("/elsewhere/rewards")


def group_of_links(file):
    file["infos/qpos"] = h5py.ExternalLink("other.hdf5", "/")
    file["rewards"] = np.zeros(12)


HOSTILE = {
    "external storage": (external, "lies in other files"),
    "virtual": (virtual, "lies in other files"),
    "external link": (link_to_a_pipe, "a link to"),
    "soft link": (soft_link, "a link to"),
    "nothing stored": (lambda f: f.create_dataset("rewards", (10**12,), "f4"), "0 of them are"),
    "no chunk": (
        lambda f: f.create_dataset("rewards", (10**12,), "f4", chunks=(1000,), fillvalue=1),
        "0 of them are",
    ),
    "no compressed chunk": (
        lambda f: f.create_dataset("rewards", (10**12,), "f4", compression="gzip"),
        "0 of them are",
    ),
    "huge chunk": (
        lambda f: f.create_dataset("rewards", (12,), "f4", maxshape=(None,), chunks=(10**9,)),
        "0 of them are",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_reads_itself_alone(path, case):
    change, words = HOSTILE[case]
    hostile(path, change)
    refused(path, "'rewards'", words)
    with pytest.raises(UserError, match=words):
        hdf5.read_logged(path)


def test_links_that_are_not_read_do_no_harm(path):
    hdf5.read_logged(hostile(path, group_of_links))
    with pytest.raises(UserError, match="a link to"):
        hdf5.read_arrays(path, ["infos/qpos"])


def test_a_pipe_is_not_opened(path):
    os.mkfifo(path)
    refused(path, "is a pipe")


def test_long_attributes_are_not_read(path):
    with h5py.File(write_raw(path, make_arrays()), "r+") as file:
        file.attrs["env_id"] = "Hopper-v4"
        file.attrs["many"] = np.zeros(5000)
    assert hdf5.read_attributes(path) == {"env_id": "Hopper-v4"}


# Where episodes end without timeouts


def test_the_files_own_environment_gives_the_horizon(path, untrusting):
    arrays = make_arrays(100)
    arrays["terminals"][:] = False
    del arrays["timeouts"]
    source = hdf5.Files("")
    hdf5.write(path, arrays, "pointmass:PointMass-v0")  # 40 steps
    with pytest.raises(UserError, match=r"marks no time limits.*--trust-modules"):
        source.load(source.find(str(path)))
    registry.trust("pointmass:PointMass-v0")
    dataset = source.load(source.find(str(path)))
    np.testing.assert_array_equal(np.flatnonzero(dataset.ends), [39, 79])
    mean = arrays["rewards"][:80].astype(float).sum() / 2
    expected = f"97 transitions, 2 complete trajectories, mean return {mean:.4g}"
    assert dataset.line() == expected
