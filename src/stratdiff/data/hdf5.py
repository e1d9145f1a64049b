"""D4RL-format HDF5: reading, writing, and the source of data sets by a file's path.

h5py is imported by the functions that need it: it takes a tenth of a second.
"""

import contextlib
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.cpu import aligned_empty
from stratdiff.data import episodes, layouts
from stratdiff.data.dataset import REQUIRED, Dataset, from_arrays
from stratdiff.data.sources import Entry, Progress, Source
from stratdiff.errors import RunStopped, UserError, some
from stratdiff.files import replacing, seal
from stratdiff.reading import OVERHEAD, check_declared, regular_file
from stratdiff.tasks import find_task

COLUMNS = ("rewards", "terminals", "timeouts")
"""The arrays of one number a row."""
# What h5py raises for a damaged file, depending on where the damage is.
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError)


class Files(Source):
    """HDF5 files, named by their path: D4RL's layout, or another that can be understood."""

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
        def horizon() -> int | None:
            """Of the environment, which a file that marks no time limits is cut by."""
            env_id = env or entry.env_id
            try:
                return find_task(env_id).horizon if env_id else None
            except UserError as error:
                raise UserError(
                    f"data file {entry.name!r} marks no time limits, so the environment has to say "
                    f"where episodes end: {error}"
                ) from error

        return read_logged(entry.name, horizon)


def read_logged(path: str | Path, horizon: Callable[[], int | None] = lambda: None) -> Dataset:
    """Load a file of any layout that can be understood (see `layouts`).

    `horizon`: asked for where the file marks no time limits.

    Raises:
        UserError: as `read`; or its arrays contradict each other.
    """
    where = f"data file {str(path)!r}"
    arrays, note = read_layout(path)
    about = read_attributes(path) | ({"read": note} if note else {})
    found = about.pop("env_id", None)
    env_id = found if isinstance(found, str) else None
    limit = None if "timeouts" in arrays else horizon()
    return from_arrays(str(path), arrays, env_id, limit, about, where)


def read_layout(
    path: str | Path, keys: Mapping[str, str] | None = None, order: bool = False
) -> tuple[dict[str, np.ndarray], str]:
    """(arrays in D4RL's layout, in words what was not read by D4RL's names) of a file.

    Raises:
        UserError: the file cannot be read, or see `layouts.d4rl_layout`.
    """
    path = Path(path)
    where = f"data file {str(path)!r}"
    with _open(path) as file:

        def children(name: str) -> list[str]:
            found = _find(file, name, where) if name else file
            return [*found] if hasattr(found, "keys") else []

        def get(key: str) -> Any:
            found = _find(file, key, where)
            return found if hasattr(found, "shape") else None

        joined = episodes.join(
            children, lambda key: _read_array(file, key, path), keys or {}, where
        )
        if joined is not None:
            table = layouts.Table(
                [*joined], joined.get, lambda key, role: _shaped(key, joined[key], where, role)
            )
        else:
            table = layouts.Table(
                _names(file, where), get, lambda key, role: _read_array(file, key, path, role)
            )
        return layouts.d4rl_layout(table, where, str(path), keys, order)


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
        where = f"data file {str(path)!r}"
        there = [key for key in keys if _find(file, key, where) is not None]
        return {key: _read_array(file, key, Path(path), key) for key in there}


def read_attributes(path: str | Path) -> dict[str, str | int | float]:
    """The file's attributes that are text or a number: `env_id` and metadata.

    Raises:
        UserError: the file is missing or damaged.
    """
    with _open(Path(path)) as file:
        attributes = file.attrs
        scalars = (key for key in attributes if attributes.get_id(key).shape == ())
        values = {key: attributes[key] for key in scalars}
    for key, value in values.items():
        plain = value.decode(errors="replace") if isinstance(value, bytes) else value
        values[key] = plain.item() if isinstance(plain, np.generic) else plain
    return {key: value for key, value in values.items() if isinstance(value, str | int | float)}


def write(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    env_id: str,
    metadata: Mapping[str, str | int | float] | None = None,
    sealed: bool = False,
) -> None:
    """Write a D4RL-format file beside `path`, then rename it; `metadata` become attributes.

    HDF5's own checksums tell damage of the arrays; `sealed`: one of the whole file (`files.seal`).

    Raises:
        RunStopped: the disk is full or the folder cannot be written; nothing is left behind.
    """
    import h5py

    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            # Checked first: HDF5 can crash the process when the disk fills up while it writes.
            needed = int(1.01 * sum(array.nbytes for array in arrays.values())) + OVERHEAD
            free = shutil.disk_usage(path.parent).free
            if free < needed:
                raise RunStopped(
                    f"data file {str(path)!r} could not be written: it needs "
                    f"{needed / 2**20:.1f} MiB and {free / 2**20:.1f} MiB are free; free some "
                    "space or choose another folder."
                )
            if hasattr(os, "posix_fallocate"):  # tells what is free for a user, and other limits
                with partial.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, needed)
            with h5py.File(partial, "w") as file:
                for key, array in arrays.items():
                    file.create_dataset(key, data=array, fletcher32=array.size > 0 or None)
                file.attrs.update({"env_id": env_id, **(metadata or {})})
            if sealed:
                seal(partial)
    except (OSError, RuntimeError) as error:
        raise RunStopped(
            f"data file {str(path)!r} could not be written ({_reason(error)}); choose a folder "
            "that can be written and has space."
        ) from error


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The file for reading; every error of HDF5 becomes a `UserError`."""
    import h5py

    regular_file(path, "data file", "give the path of an HDF5 file")
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


def _find(file: Any, key: str, where: str) -> Any:
    """What the file has under a path, or None.

    Raises:
        UserError: a link stands there, which may lead to another file.
    """
    import h5py

    found = file
    for part in key.split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise UserError(
                f"{where} has a link to {link.path!r} in place of {key!r}; only what is in the "
                "file itself is read, so copy the array into it."
            )
        found = found[part]
    return found


def _names(file: Any, where: str) -> list[str]:
    """The arrays of a file and of its groups; deeper ones are read only by their name."""
    import h5py

    out = []
    for name in file:
        found = _find(file, name, where)
        if isinstance(found, h5py.Group):
            out += [f"{name}/{inner}" for inner in found]
        else:
            out.append(name)
    return out


def _read_array(file: Any, key: str, path: Path, role: str = "") -> np.ndarray:
    """One array as float32: (rows, size) or (rows,), as the role (a key of D4RL's) needs."""
    import h5py

    where = f"data file {str(path)!r}"
    data = _find(file, key, where)
    if not isinstance(data, h5py.Dataset):
        raise UserError(
            f"{where} has no array {key!r}: {key!r} is a group ({some(data or ())}); say which of "
            f"its arrays to read, as in `stratdiff data convert {path} OUT.hdf5 --keys "
            f"{role or 'observations'}={key.rpartition('/')[2]}/FIRST,.../SECOND`."
        )
    check_array(role or key, data, where, any_shape=role not in (*REQUIRED, "timeouts"))
    _check_stored(data, path, f"{where}: {key!r}")
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
    return _shaped(key, array, where, role)


def _shaped(key: str, array: np.ndarray, where: str, role: str) -> np.ndarray:
    """The array with the shape of its role."""
    check_array(role or key, array, where, any_shape=role not in (*REQUIRED, "timeouts"))
    return array.reshape(len(array)) if role in COLUMNS else array


def _check_stored(data: Any, path: Path, where: str) -> None:
    """Refuse an array that is not all in the file, before memory is taken for it.

    Raises:
        UserError: it lies in other files, or its size is declared and its values are not there.
    """
    properties = data.id.get_create_plist()
    if data.is_virtual or properties.get_external_count():
        raise UserError(
            f"{where} lies in other files; only what is in the file itself is read, so copy the "
            "array into it."
        )
    stored, size = data.id.get_storage_size(), data.dtype.itemsize
    declared, compressed = data.size * size, properties.get_nfilters() > 0
    missing = False
    if data.chunks and data.size:
        chunks = math.prod(-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True))
        missing = data.id.get_num_chunks() < chunks  # they would be filled with one value
        declared = max(declared, math.prod(data.chunks) * size)
    if missing or stored > path.stat().st_size or (not compressed and stored < data.size * size):
        raise UserError(
            f"{where} declares {data.size * size:,} bytes and {stored:,} of them are stored; the "
            "file is damaged, was not written to the end or is made up, so copy it again."
        )
    check_declared(max(declared, data.size * 4), stored, where)


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
