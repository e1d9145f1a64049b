"""Write the package's HDF5, or a Minari data set, from data that was collected elsewhere."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff import reading
from stratdiff.data import dataset, hdf5, layouts, sources
from stratdiff.data.dataset import REQUIRED, Dataset
from stratdiff.data.tools import log, to_minari
from stratdiff.errors import UserError
from stratdiff.tasks import find_task


def from_arrays(
    path: str | Path,
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    terminals: np.ndarray,
    timeouts: np.ndarray | None = None,
    env_id: str | None = None,
    **metadata: str | int | float,
) -> None:
    """Write arrays of consecutive steps, one row each, as an HDF5 file; an old one is replaced.

    `observations` (N, S), `actions` (N, A) in [-1, 1], `rewards`, `terminals`, `timeouts` (N,).
    `timeouts` marks the last row of a trajectory without a terminal. That row is no transition
    (its next observation is not known), so give the last observation a row of its own where you
    have it. D4RL's rule also drops the last row of all.

    Raises:
        UserError: the arrays do not fit together or cannot be trained on (nothing is written).
    """
    given = dict(zip(REQUIRED, (observations, actions, rewards, terminals), strict=True))
    if timeouts is not None:
        given["timeouts"] = timeouts
    arrays = _checked(given, f"arrays for {str(path)!r}")
    hdf5.write(path, arrays, env_id or "", metadata)


def convert(source: str | Dataset, out: str, env: str = "", keys: Sequence[str] = ()) -> str:
    """Write an HDF5 file or a Minari data set from other data.

    `source`: an HDF5 or .npz file of any layout that can be understood (see `data.layouts`), where
    `keys` (`terminals=dones`) say what its arrays are; a name of `stratdiff data list`, such as
    `minari/<dataset id>`; the .partial file that a Recorder left; or a data set in memory. `out`:
    the HDF5 file, or `minari/<dataset id>` of Minari's local store (see `to_minari.write`).
    `env`: the environment's id, where the source names none or another. Transitions in no time
    order are put into one.

    Returns:
        In words, what was not read by D4RL's names.

    Raises:
        UserError: `out` exists, the source cannot be read, or it does not fit `env`.
    """
    if to_minari.is_one(out):
        to_minari.check_new(out)
    elif Path(out).exists():
        raise UserError(f"{out!r} already exists; give another OUT, or remove it first.")
    where = f"source {source!r}" if isinstance(source, str) else f"data set {source.name!r}"
    arrays, env_id, metadata, note = _read(source, dict(key.partition("=")[::2] for key in keys))
    arrays = _checked(arrays, where)
    if env:
        task = find_task(env)
        for key, size in (("observations", task.obs_dim), ("actions", task.action_dim)):
            if arrays[key].shape[1] != size:
                raise UserError(
                    f"{where} has {key} of size {arrays[key].shape[1]} but environment "
                    f"{env!r} has size {size}; give the --env that the data came from."
                )
    if to_minari.is_one(out):
        to_minari.write(out, arrays, env or env_id, metadata)
    else:
        hdf5.write(out, arrays, env or env_id, metadata)
    return note


def _read(
    source: str | Dataset, keys: dict[str, str]
) -> tuple[dict[str, np.ndarray], str, Mapping[str, Any], str]:
    """(arrays of the file, environment's id or "", metadata, what was not read by D4RL's names)."""
    if isinstance(source, Dataset):
        return *_rows(source), ""
    if source.endswith(".npz"):
        arrays, note = _read_npz(source, keys)
        return arrays, "", {"name": Path(source).name.encode(errors="replace").decode()}, note
    if source.endswith(".partial"):
        header, arrays = log.read_arrays(Path(source))
        return arrays, header["env_id"], header["metadata"], ""
    if sources.is_file(source):
        arrays, note = hdf5.read_layout(source, keys, order=True)
        about = hdf5.read_attributes(source)
        return arrays, str(about.pop("env_id", "")), about, note
    if sources.source_of(source) is None:
        raise UserError(
            f"{source!r} cannot be converted; give a name of `stratdiff data list`, an HDF5 or "
            ".npz file, the .partial file of a Recorder, or RUN/replay."
        )
    return *_rows(sources.load(source)), ""


def _rows(found: Dataset) -> tuple[dict[str, np.ndarray], str, Mapping[str, Any]]:
    """(arrays, environment's id or "", metadata) of a data set in memory."""
    timeouts = found.ends.copy()
    timeouts[found.transitions] = False
    columns = (found.observations, found.actions, found.rewards, found.terminals)
    arrays = dict(zip(REQUIRED, columns, strict=True), timeouts=timeouts)
    return arrays, found.env_id or "", found.metadata


def _read_npz(source: str, keys: dict[str, str]) -> tuple[dict[str, np.ndarray], str]:
    where = f"source {source!r}"
    names = reading.npz_keys(source, "source")
    get = functools.cache(lambda key: reading.read_npz(source, "source", [key]).get(key))

    def load(key: str, role: str) -> np.ndarray:
        array = np.asarray(get(key))
        if role or key in (*REQUIRED, "timeouts"):
            return _array(role or key, array, where)
        hdf5.check_array(key, array, where, any_shape=True)
        return array.astype(np.float32)

    table = layouts.Table(names, get, load)
    return layouts.d4rl_layout(table, where, source, keys, order=True)


def _checked(given: dict[str, Any], where: str) -> dict[str, np.ndarray]:
    """The arrays in the file's dtypes and shapes; refused if they cannot be trained on."""
    arrays = {key: _array(key, np.asarray(value), where) for key, value in given.items()}
    dataset.from_arrays(where, arrays, where=where)
    return arrays


def _array(key: str, array: np.ndarray, where: str) -> np.ndarray:
    hdf5.check_array(key, array, where)
    if key in hdf5.COLUMNS:
        array = array.reshape(len(array))
    if key in ("terminals", "timeouts"):
        if not ((array == 0) | (array == 1)).all():
            raise UserError(f"{where}: {key!r} holds values other than 0 and 1; mark ends with 1.")
        return array.astype(bool)
    with np.errstate(over="ignore"):  # becomes infinite, which `from_arrays` refuses
        return array.astype(np.float32)
