"""Write the package's HDF5 from data that was collected elsewhere."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.data import d4rl, dataset, minari, recorder
from stratdiff.errors import UserError
from stratdiff.tasks import find_task

_REQUIRED = ("observations", "actions", "rewards", "terminals")


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
    given = dict(
        zip(_REQUIRED, (observations, actions, rewards, terminals), strict=True),
    )
    if timeouts is not None:
        given["timeouts"] = timeouts
    arrays = _checked(given, f"arrays for {str(path)!r}")
    d4rl.write(path, arrays, env_id or "", metadata)


def convert(source: str, out: str, env: str = "") -> None:
    """Write the HDF5 file `out` from a Minari data set, an .npz file or a Recorder's log.

    `source`: `minari/<dataset id>`; an .npz with arrays named as in D4RL's files; or the .partial
    file that a Recorder left. `env`: the environment's id, where the source names none or another.

    Raises:
        UserError: `out` exists, the source cannot be read, or it does not fit `env`.
    """
    path = Path(out)
    if path.exists():
        raise UserError(f"{out!r} already exists; give another OUT, or remove it first.")
    if source.startswith(minari.PREFIX):
        arrays, env_id, metadata = minari.read(source)
    elif source.endswith(".npz"):
        arrays, env_id, metadata = _read_npz(source), "", {"name": Path(source).name}
    elif source.endswith(".partial"):
        header, rows = recorder.read_partial(Path(source))
        arrays = {key: np.ascontiguousarray(rows[key]) for key in rows.dtype.names or ()}
        arrays, env_id = recorder.finish_rows(arrays), header["env_id"]
        metadata = header["metadata"]
    else:
        raise UserError(
            f"{source!r} cannot be converted; give minari/ and an id, an .npz file, or the "
            ".partial file of a Recorder."
        )
    arrays = _checked(arrays, f"source {source!r}")
    if env:
        task = find_task(env)
        for key, size in (("observations", task.obs_dim), ("actions", task.action_dim)):
            if arrays[key].shape[1] != size:
                raise UserError(
                    f"source {source!r} has {key} of size {arrays[key].shape[1]} but environment "
                    f"{env!r} has size {size}; give the --env that the data came from."
                )
    d4rl.write(path, arrays, env or env_id, metadata)


def _read_npz(source: str) -> dict[str, np.ndarray]:
    where = f"source {source!r}"
    if not Path(source).is_file():
        raise UserError(f"{where} does not exist; give the path of an .npz file.")
    try:
        with Path(source).open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            names = (*_REQUIRED, "timeouts", *recorder.OPTIONAL)
            return {key: file[key] for key in names if key in file}
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(
            f"{where} could not be read ({error}); give an .npz file of plain arrays, as "
            "numpy.savez writes it."
        ) from error


def _checked(given: dict[str, Any], where: str) -> dict[str, np.ndarray]:
    """The arrays in the dtypes and shapes of the file.

    Raises:
        UserError: they do not fit together or cannot be trained on.
    """
    missing = [key for key in _REQUIRED if key not in given]
    if missing:
        raise UserError(
            f"{where}: there is no array {missing[0]!r} (found: {', '.join(given) or 'nothing'}); "
            f"{', '.join(_REQUIRED)} are needed."
        )
    arrays = {key: _array(key, np.asarray(value), where) for key, value in given.items()}
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise UserError(
            f"{where}: the arrays differ in length ({found}); each needs one row per step."
        )
    dataset.from_arrays(where, arrays)
    return arrays


def _array(key: str, array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise UserError(f"{where}: {key!r} holds {array.dtype} values; numbers are needed.")
    matrix = key in ("observations", "actions") or key.startswith("infos/")
    fits = array.ndim == 2 and array.shape[1] > 0 if matrix else array.shape[1:] in ((), (1,))
    if not fits or array.ndim == 0:
        expected = "(rows, size)" if matrix else "(rows,)"
        raise UserError(f"{where}: {key!r} has shape {array.shape}; expected {expected}.")
    if not matrix:
        array = array.reshape(len(array))
    if key in ("terminals", "timeouts"):
        if not ((array == 0) | (array == 1)).all():
            raise UserError(f"{where}: {key!r} holds values other than 0 and 1; mark ends with 1.")
        return array.astype(bool)
    with np.errstate(over="ignore"):  # becomes infinite, which is refused by its place
        return array.astype(np.float32)
