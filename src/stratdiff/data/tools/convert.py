"""Write the package's HDF5 from data that was collected elsewhere."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.data import dataset, hdf5, sources
from stratdiff.data.dataset import REQUIRED
from stratdiff.data.tools import log
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


def convert(source: str, out: str, env: str = "") -> None:
    """Write the HDF5 file `out` from another data set, an .npz file or a Recorder's log.

    `source`: a name whose source keeps no HDF5 files itself, such as `minari/<dataset id>`; an .npz
    with arrays named as in D4RL's files; or the .partial file that a Recorder left. `env`: the
    environment's id, where the source names none or another.

    Raises:
        UserError: `out` exists, the source cannot be read, or it does not fit `env`.
    """
    path = Path(out)
    if path.exists():
        raise UserError(f"{out!r} already exists; give another OUT, or remove it first.")
    arrays, env_id, metadata = _read(source)
    arrays = _checked(arrays, f"source {source!r}")
    if env:
        task = find_task(env)
        for key, size in (("observations", task.obs_dim), ("actions", task.action_dim)):
            if arrays[key].shape[1] != size:
                raise UserError(
                    f"source {source!r} has {key} of size {arrays[key].shape[1]} but environment "
                    f"{env!r} has size {size}; give the --env that the data came from."
                )
    hdf5.write(path, arrays, env or env_id, metadata)


def _read(source: str) -> tuple[dict[str, np.ndarray], str, Mapping[str, Any]]:
    """(arrays of the file, environment's id or "", metadata)."""
    if source.endswith(".npz"):
        return _read_npz(source), "", {"name": Path(source).name}
    if source.endswith(".partial"):
        header, arrays = log.read_arrays(Path(source))
        return arrays, header["env_id"], header["metadata"]
    own = sources.source_of(source)
    if own is None or own.keeps_hdf5:
        raise UserError(
            f"{source!r} cannot be converted; give minari/ and an id, an .npz file, or the "
            ".partial file of a Recorder."
        )
    found = sources.load(source)
    timeouts = found.ends.copy()
    timeouts[found.transitions] = False
    columns = (found.observations, found.actions, found.rewards, found.terminals)
    arrays = dict(zip(REQUIRED, columns, strict=True), timeouts=timeouts)
    return arrays, found.env_id or "", found.metadata


def _read_npz(source: str) -> dict[str, np.ndarray]:
    where = f"source {source!r}"
    if not Path(source).is_file():
        raise UserError(f"{where} does not exist; give the path of an .npz file.")
    try:
        with Path(source).open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            names = (*REQUIRED, "timeouts", *log.OPTIONAL)
            return {key: file[key] for key in names if key in file}
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(
            f"{where} could not be read ({error}); give an .npz file of plain arrays, as "
            "numpy.savez writes it."
        ) from error


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
