"""D4RL-format HDF5: reading, writing, and the source of data sets by a file's path.

h5py is imported by the functions that need it: it takes a tenth of a second.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.cpu import aligned_empty
from stratdiff.data.dataset import REQUIRED, Dataset, from_arrays
from stratdiff.data.sources import Entry, Progress, Source
from stratdiff.errors import UserError
from stratdiff.files import replacing
from stratdiff.tasks import find_task

COLUMNS = ("rewards", "terminals", "timeouts")
"""The arrays of one number a row."""
# What HDF5 may add to the arrays: headers, groups, attributes.
_OVERHEAD = 64 * 1024
# What h5py raises for a damaged file, depending on where the damage is.
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError)


class Files(Source):
    """D4RL-format HDF5 files, named by their path."""

    keeps_hdf5 = True

    def find(self, name: str) -> Entry:
        if Path(name).is_dir():
            raise UserError(f"data file {name!r} is a folder; give an HDF5 file in D4RL's format.")
        found = read_attributes(name)
        env_id = found.get("env_id")
        spec = str(found.get("env_spec", ""))
        return Entry(name, env_id if isinstance(env_id, str) else None, env_spec=spec)

    def local(self, entry: Entry) -> Path:
        return Path(entry.name)

    def load(self, entry: Entry, env: str = "", progress: Progress | None = None) -> Dataset:
        with _open(Path(entry.name)) as file:
            counted = bool(env) and "timeouts" not in file
        return read(entry.name, find_task(env).horizon if counted else None)


def read(path: str | Path, horizon: int | None = None, name: str | None = None) -> Dataset:
    """Load a D4RL-format file by D4RL's transition rule.

    Needs `observations` (N, S), `actions` (N, A), `rewards` and `terminals` (N,) or (N, 1); uses
    `timeouts` where present, else `horizon`. Other keys are ignored.

    Raises:
        UserError: the file is missing, is no HDF5, lacks a key, or its arrays do not fit together
            or hold values that cannot be trained on.
    """
    path = Path(path)
    arrays = read_arrays(path, (*REQUIRED, "timeouts"))
    about = read_attributes(path)
    found = about.pop("env_id", None)
    env_id = found if isinstance(found, str) else None
    return from_arrays(
        name or str(path), arrays, env_id, horizon, about, f"data file {str(path)!r}"
    )


def read_arrays(path: str | Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays of `keys` (such as `infos/qpos`) as float32; those the file lacks are left out.

    Raises:
        UserError: the file is missing or damaged, or a key holds no numbers.
    """
    with _open(Path(path)) as file:
        return {key: _read_array(file, key, Path(path)) for key in keys if key in file}


def read_attributes(path: str | Path) -> dict[str, str | int | float]:
    """The file's attributes that are text or a number: `env_id` and metadata.

    Raises:
        UserError: the file is missing or damaged.
    """
    with _open(Path(path)) as file:
        values = dict(file.attrs)
    for key, value in values.items():
        plain = value.decode(errors="replace") if isinstance(value, bytes) else value
        values[key] = plain.item() if isinstance(plain, np.generic) else plain
    return {key: value for key, value in values.items() if isinstance(value, str | int | float)}


def write(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    env_id: str,
    metadata: Mapping[str, str | int | float] | None = None,
) -> None:
    """Write a D4RL-format file beside `path`, then rename it; `metadata` become attributes.

    Raises:
        UserError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    import h5py

    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            # Checked first: HDF5 can crash the process when the disk fills up while it writes.
            needed = sum(array.nbytes for array in arrays.values()) + _OVERHEAD
            free = shutil.disk_usage(path.parent).free
            if free < needed:
                raise UserError(
                    f"data file {str(path)!r} could not be written: it needs "
                    f"{needed / 2**20:.1f} MiB and {free / 2**20:.1f} MiB are free; free some "
                    "space or choose another folder."
                )
            with h5py.File(partial, "w") as file:
                for key, array in arrays.items():
                    file.create_dataset(key, data=array)
                file.attrs.update({"env_id": env_id, **(metadata or {})})
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"data file {str(path)!r} could not be written ({_reason(error)}); choose a folder "
            "that can be written and has space."
        ) from error


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The file for reading; every error of HDF5 becomes a `UserError`."""
    import h5py

    if not path.is_file():
        raise UserError(f"data file {str(path)!r} does not exist; give the path of an HDF5 file.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(
            f"data file {str(path)!r} could not be opened as HDF5 ({_reason(error)}); give a "
            "D4RL-format HDF5 file, or copy it again if it was cut off."
        ) from error
    try:
        with file:
            yield file
    except _DAMAGE as error:
        raise UserError(
            f"data file {str(path)!r} could not be read ({_reason(error)}); the file is damaged, "
            "copy it again."
        ) from error


def _read_array(file: Any, key: str, path: Path) -> np.ndarray:
    """One array as float32: (rows, size), (rows,), or as it is for keys that are not D4RL's own."""
    import h5py

    where, data = f"data file {str(path)!r}", file[key]
    if not isinstance(data, h5py.Dataset):
        raise UserError(f"{where} has no array {key!r}: {key!r} is a group.")
    check_array(key, data, where, any_shape=key not in (*REQUIRED, "timeouts"))
    try:
        # HDF5 converts block by block, so no array of doubles is ever whole in memory. What is
        # beyond float32 becomes infinite, which is refused.
        array = aligned_empty(data.shape, np.float32)
        data.read_direct(array)
    except _DAMAGE as error:
        raise UserError(
            f"{where}: {key!r} could not be read ({_reason(error)}); the file is damaged, copy it "
            "again."
        ) from error
    return array.reshape(len(array)) if key in COLUMNS else array


def check_array(key: str, array: Any, where: str, any_shape: bool = False) -> None:
    """Refuse what the file format cannot hold under `key`; `array` is NumPy's or h5py's.

    Raises:
        UserError: it holds no numbers, or its shape is not (rows,) or (rows, size), as `key` needs.
    """
    if array.shape is None or array.dtype.kind not in "fiub":
        raise UserError(f"{where}: {key!r} holds {array.dtype} values; numbers are needed.")
    if key in COLUMNS:
        fits, expected = array.ndim > 0 and array.shape[1:] in ((), (1,)), "(rows,)"
    else:
        fits, expected = array.ndim == 2 and array.shape[1] > 0, "(rows, size)"
    if not (fits or any_shape):
        raise UserError(f"{where}: {key!r} has shape {array.shape}; expected {expected}.")


def _reason(error: Exception) -> str:
    """What went wrong in one line; the system's words where HDF5 quotes an error number."""
    number = re.search(r"[Ee]rrno\D{1,3}(\d+)", str(error))
    return os.strerror(int(number[1])) if number else " ".join(str(error).split())
