"""Read and write D4RL-format HDF5."""

import os
from pathlib import Path

import h5py
import numpy as np

from stratdiff.data.dataset import Dataset, transition_rows, validate
from stratdiff.errors import UserError

_REQUIRED = ("observations", "actions", "rewards", "terminals")


def read(path: str | Path, horizon: int | None = None, name: str | None = None) -> Dataset:
    """Load a D4RL-format file by D4RL's transition rule.

    Needs `observations` (N, S), `actions` (N, A), `rewards` and `terminals` (N,) or (N, 1); uses
    `timeouts` where present, else `horizon`. Other keys are ignored.

    Raises:
        UserError: the file is missing, is no HDF5, lacks a key, or its arrays do not fit together
            or hold values that cannot be trained on.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"data file {str(path)!r} does not exist; give the path of an HDF5 file.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(
            f"data file {str(path)!r} could not be opened as HDF5 ({error}); give a D4RL-format "
            "HDF5 file, or copy it again if it was cut off."
        ) from error
    with file:
        missing = [k for k in _REQUIRED if not isinstance(file.get(k), h5py.Dataset)]
        if missing:
            raise UserError(
                f"data file {str(path)!r} has no array {missing[0]!r} (found: "
                f"{', '.join(sorted(file)) or 'nothing'}); a D4RL-format file needs "
                f"{', '.join(_REQUIRED)}."
            )
        arrays = {
            key: _read_array(file, key, path) for key in (*_REQUIRED, "timeouts") if key in file
        }
        env_id = file.attrs.get("env_id")
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise UserError(
            f"data file {str(path)!r} has arrays of different length ({found}); every array needs "
            "one row per step."
        )
    for key in ("terminals", "timeouts"):
        bad = np.flatnonzero(~np.isfinite(arrays.get(key, np.zeros(0))))
        if len(bad):
            raise UserError(
                f"data file {str(path)!r}: {key} holds {len(bad)} values that are NaN or infinite, "
                f"the first at index ({bad[0]},); they must be 0 or 1."
            )
    terminals = arrays["terminals"] > 0.5
    timeouts = arrays["timeouts"] > 0.5 if "timeouts" in arrays else None
    ends, transitions = transition_rows(terminals, timeouts, horizon)
    dataset = Dataset(
        name=name or str(path),
        env_id=env_id if isinstance(env_id, str) else None,
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        terminals=terminals,
        ends=ends,
        transitions=transitions,
    )
    validate(dataset)
    return dataset


def _read_array(file: h5py.File, key: str, path: Path) -> np.ndarray:
    """One array as float32, (rows, size) or (rows,)."""
    where, data = f"data file {str(path)!r}", file[key]
    if not isinstance(data, h5py.Dataset):
        raise UserError(f"{where}: {key!r} is a group; an array is needed.")
    if data.shape is None or data.dtype.kind not in "fiub":
        raise UserError(f"{where}: {key!r} holds {data.dtype} values; numbers are needed.")
    matrix = key in ("observations", "actions")
    fits = data.ndim == 2 and data.shape[1] > 0 if matrix else data.shape[1:] in ((), (1,))
    if not fits or data.ndim == 0:
        expected = "(rows, size)" if matrix else "(rows,)"
        raise UserError(f"{where}: {key!r} has shape {data.shape}; expected {expected}.")
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which is refused by its place
            array = np.asarray(data[()], np.float32)
    except OSError as error:
        raise UserError(
            f"{where}: {key!r} could not be read ({error}); the file is damaged, copy it again."
        ) from error
    return array if matrix else array.reshape(len(array))


def write(path: str | Path, arrays: dict[str, np.ndarray], env_id: str) -> None:
    """Write a D4RL-format file beside `path`, then rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(partial, "w") as file:
            for key, array in arrays.items():
                file.create_dataset(key, data=array)
            file.attrs["env_id"] = env_id
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
