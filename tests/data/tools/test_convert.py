"""Data from elsewhere as the package's HDF5."""

import h5py
import numpy as np
import pytest
from logged import (
    NestedLike,
    Walk,
    assert_same_transitions,
    make_arrays,
    minari_transitions,
    qlearning_dataset,
    record,
)
from test_recorder import Count, play
from test_recorder import assert_same as assert_same_steps

from stratdiff.data import hdf5
from stratdiff.data.sources import load_dataset
from stratdiff.data.tools import log
from stratdiff.data.tools.convert import convert, from_arrays
from stratdiff.data.tools.recorder import Recorder
from stratdiff.errors import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.hdf5"


# From arrays


def test_from_arrays(path):
    arrays = make_arrays()
    from_arrays(path, **arrays, env_id="Mine-v0", author="me", seed=3)
    dataset = hdf5.read(path)
    rows = dataset.transitions
    found = (
        dataset.observations[rows],
        dataset.actions[rows],
        dataset.rewards[rows],
        dataset.observations[rows + 1],
        dataset.terminals[rows],
    )
    for a, b in zip(found, qlearning_dataset(arrays), strict=True):
        np.testing.assert_array_equal(a, b)
    assert dataset.env_id == "Mine-v0"
    with h5py.File(path) as file:
        assert (file.attrs["author"], file.attrs["seed"]) == ("me", 3)
        assert file["terminals"].dtype == bool
        assert file["observations"].dtype == np.float32


def test_other_dtypes_and_columns(path):
    arrays = make_arrays()
    from_arrays(path, **arrays)
    plain = hdf5.read(path)
    assert not plain.env_id
    from_arrays(
        path,
        arrays["observations"].astype(np.float64),
        arrays["actions"].astype(np.float64),
        arrays["rewards"].astype(np.float64)[:, None],
        arrays["terminals"].astype(np.int64)[:, None],
        arrays["timeouts"].astype(np.float32),
    )
    assert hdf5.read(path).fingerprint == plain.fingerprint


def test_without_timeouts_the_reader_counts(path):
    arrays = make_arrays()
    del arrays["timeouts"]
    from_arrays(path, **arrays)
    np.testing.assert_array_equal(np.flatnonzero(hdf5.read(path, horizon=5).ends), [3, 8])


def with_value(key, index, value):
    array = make_arrays()[key].astype(np.float64)
    array[index] = value
    return {key: array}


BAD = {
    "text": ({"rewards": np.array(["1"] * 12)}, ("'rewards'", "numbers")),
    "objects": ({"rewards": np.array([None] * 12)}, ("'rewards'", "numbers")),
    "complex": ({"actions": np.zeros((12, 2), complex)}, ("'actions'", "complex128")),
    "one dimension": ({"observations": np.zeros(12)}, ("'observations'", "(12,)", "(rows, size)")),
    "two columns": ({"rewards": np.zeros((12, 2))}, ("'rewards'", "(12, 2)", "(rows,)")),
    "length": ({"actions": np.zeros((11, 2))}, ("actions 11", "observations 12")),
    "nan": (with_value("observations", (4, 1), np.nan), ("observations", "NaN", "(4, 1)")),
    "huge": (with_value("rewards", 5, 1e300), ("rewards", "infinite", "(5,)")),
    "action": (with_value("actions", (2, 0), -1.5), ("outside [-1, 1]", "-1.5", "(2, 0)")),
    "flag": (with_value("terminals", 1, 0.5), ("'terminals'", "0 and 1")),
    "nan flag": (with_value("timeouts", 1, np.nan), ("'timeouts'", "0 and 1")),
    "empty": ({k: v[:0] for k, v in make_arrays().items()}, ("0 rows", "no transition")),
    "one row": ({k: v[:1] for k, v in make_arrays().items()}, ("1 rows", "no transition")),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_that_are_refused(path, case):
    changes, words = BAD[case]
    arrays = make_arrays() | changes
    np.savez(path.with_name("in.npz"), **arrays)
    source = str(path.with_name("in.npz"))
    for call, where in (
        (lambda: from_arrays(path, **arrays), f"arrays for '{path}'"),
        (lambda: convert(source, str(path)), source),
    ):
        with pytest.raises(UserError) as caught:
            call()
        for word in (where, *words) if case != "objects" else (where,):
            assert word in str(caught.value), (word, str(caught.value))
        assert "\n" not in str(caught.value)
        assert not path.exists()


# Sources


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up")
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("terminal_at", [(None, 4, None, 2), (3, None, 1, None)])
def test_minari_and_back(path, terminal_at):
    source = record(Walk(terminal_at), (5, 9, 1, 9), "own/walk-v0")
    convert("minari/own/walk-v0", str(path))
    dataset, direct = hdf5.read(path), load_dataset("minari/own/walk-v0")
    assert_same_transitions(dataset, minari_transitions(source))
    # Not only the transitions: ends and returns too.
    assert dataset.fingerprint == direct.fingerprint
    with h5py.File(path) as file:
        assert file.attrs["name"] == "minari/own/walk-v0"
        assert file.attrs["minari_version"] == source.minari_version


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up")
@pytest.mark.usefixtures("store")
def test_other_environment_than_the_datas(path):
    record(NestedLike(), (3,), "own/nested-v0")
    convert("minari/own/nested-v0", str(path))
    with pytest.raises(UserError, match="already exists"):
        convert("minari/own/nested-v0", str(path))
    path.unlink()
    with pytest.raises(UserError, match=r"observations of size 6 .*'Hopper-v4' has size 11"):
        convert("minari/own/nested-v0", str(path), "Hopper-v4")
    assert not path.exists()


def test_npz(path):
    arrays = make_arrays() | {"infos/qpos": np.ones((12, 4)), "notes": np.array(["a", "b"])}
    np.savez_compressed(path.with_name("in.npz"), **arrays)
    convert(str(path.with_name("in.npz")), str(path))
    written = hdf5.read(path)
    from_arrays(path, **make_arrays())
    assert written.fingerprint == hdf5.read(path).fingerprint
    path.unlink()
    convert(str(path.with_name("in.npz")), str(path))
    with h5py.File(path) as file:
        assert sorted(file["infos"]) == ["qpos"]
        assert "notes" not in file


def test_npz_with_an_environment(path, data_file):
    # Made from a real file of PointMass, so that sizes fit.
    keys = ("observations", "actions", "rewards", "terminals", "timeouts")
    with h5py.File(data_file) as file:
        np.savez(path.with_name("in.npz"), **{key: file[key][()] for key in keys})
    convert(str(path.with_name("in.npz")), str(path), "pointmass:PointMass-v0")
    assert hdf5.read(path).env_id == "pointmass:PointMass-v0"
    assert hdf5.read(path).fingerprint == hdf5.read(data_file).fingerprint


def test_npz_that_cannot_be_read(path):
    source = path.with_name("in.npz")
    np.savez(source, observations=np.zeros((3, 2)))
    whole = source.read_bytes()
    with pytest.raises(UserError, match=r"in\.npz'.*no array 'actions' \(found: observations\)"):
        convert(str(source), str(path))
    np.save(path.with_name("in.npy"), np.zeros(3))
    single = path.with_name("in.npy").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"x", single):
        source.write_bytes(content)
        with pytest.raises(UserError, match=r"in\.npz' could not be read"):
            convert(str(source), str(path))
    np.savez_compressed(source, **make_arrays(2000))
    whole = bytearray(source.read_bytes())
    whole[1000:1100] = bytes(100)
    source.write_bytes(whole)
    with pytest.raises(UserError, match=r"in\.npz' could not be read"):
        convert(str(source), str(path))
    source.unlink()
    with pytest.raises(UserError, match="does not exist"):
        convert(str(source), str(path))


def test_log_of_a_recorder(path):
    env = Recorder(Count(((2, "terminal"), (3, "limit"))), path, env_id="Count-v0")
    steps = play(env, (9, 9))
    partial = log.partial_path(path)
    convert(str(partial), str(path))
    assert_same_steps(path, steps)
    assert hdf5.read(path).env_id == "Count-v0"
    assert partial.exists()
    env.close()


def test_unknown_source(path):
    for source in ("data.csv", "hopper", "minari"):
        with pytest.raises(UserError, match=rf"'{source}' cannot be converted.*\.npz"):
            convert(source, str(path))
