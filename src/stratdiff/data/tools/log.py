"""The log that a Recorder keeps while it runs: PATH.partial, safe after each episode.

It is a line of JSON (`env_id`, `metadata`, `sizes`), then one record of fixed size a row.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.data import hdf5
from stratdiff.data.dataset import REQUIRED, finish_rows
from stratdiff.data.layouts import OPTIONAL
from stratdiff.errors import RunStopped, UserError
from stratdiff.files import checksum, replacing
from stratdiff.reading import SMALL, parse_json, regular_file

# The checksum of a row, its last four bytes.
_SUM = "crc32"


class Log:
    """The rows of a recording that goes on, added to those of an earlier one."""

    def __init__(
        self, path: Path, sizes: dict[str, int], env_id: str, about: dict[str, str], append: bool
    ) -> None:
        """`sizes`: the numbers a row of each array has; `append`: continue an earlier recording.

        Raises:
            UserError: there is an earlier recording, and `append` is False or it is another's.
        """
        self.path, self.partial = path, partial_path(path)
        self.dtype = _record(sizes)
        self.header: dict[str, Any] = {"env_id": env_id, "metadata": about, "sizes": sizes}
        if not append:
            for found, advice in (
                (self.partial, f"or finish it: stratdiff data convert {self.partial} {path}"),
                (path, "or give another path"),
            ):
                if found.exists():
                    raise UserError(
                        f"{str(found)!r} already exists; give append=True to add to it, {advice}."
                    )
        rows = np.zeros(0, self.dtype)
        if self.partial.exists():
            header, rows = read_partial(self.partial)
            self._check(header["env_id"], header["metadata"], header["sizes"], self.partial)
        elif path.exists():
            rows = self._rows_of(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A crash while this is written loses nothing of an older log.
        with replacing(self.partial) as fresh, fresh.open("wb") as file:
            file.write(json.dumps(self.header).encode() + b"\n")
            file.write(_summed(rows).tobytes())
        self._file = self.partial.open("ab")

    def _check(
        self, env_id: str, about: Mapping[str, Any], sizes: dict[str, int], where: Path
    ) -> None:
        # Recordings of earlier versions do not have all of the environment.
        spec = self.header["metadata"].get("env_spec")
        for what, found, expected in (
            ("environment", env_id, self.header["env_id"]),
            ("environment", about.get("env_spec", spec), spec),
            ("sizes", sizes, self.header["sizes"]),
        ):
            if found != expected:
                raise UserError(
                    f"{str(where)!r} was recorded with {what} {found!r}, not {expected!r}; append "
                    "to a file of the same environment, or give another path."
                )

    def _rows_of(self, path: Path) -> np.ndarray:
        """The rows of a finished file, each trajectory closed."""
        found = hdf5.read(path)  # refuses a damaged file
        arrays = hdf5.read_arrays(path, (*REQUIRED, "timeouts", *OPTIONAL))
        sizes = {k: a.shape[1] for k, a in arrays.items() if k not in hdf5.COLUMNS}
        self._check(found.env_id or "", found.metadata, sizes, path)
        rows = np.zeros(len(arrays["rewards"]), self.dtype)
        for key, array in arrays.items():
            rows[key] = array.reshape(rows[key].shape)
        unflagged = not (rows["terminals"][-1] or rows["timeouts"][-1])
        if unflagged and len(rows) > 1 and rows["terminals"][-2]:
            rows = rows[:-1]  # the row that `finish_rows` added
        return _closed(rows)

    def append(self, **row: Any) -> None:
        """Add a row; arrays that are not given are zero."""
        record = np.zeros(1, self.dtype)
        for key, value in row.items():
            record[key] = value
        self._guard(self._file.write, _summed(record).tobytes())

    def flush(self) -> None:
        """Hand the rows to the system, so that they outlive this process."""
        self._guard(self._file.flush)

    def close(self) -> None:
        """Make the HDF5 file, then remove the log; without any row there is no file.

        Raises:
            UserError: the file cannot be written; the log is kept.
        """
        self._guard(self._file.close)
        header, arrays = read_arrays(self.partial)
        if len(arrays["rewards"]):
            hdf5.write(self.path, arrays, header["env_id"], header["metadata"])
        self.partial.unlink()

    def _guard(self, call: Any, *arguments: Any) -> None:
        try:
            call(*arguments)
        except OSError as error:
            raise RunStopped(
                f"{str(self.partial)!r} could not be written ({error}); make room on the disk, "
                f"then keep what is in it: stratdiff data convert {self.partial} {self.path}."
            ) from error


def _record(sizes: dict[str, int]) -> np.dtype:
    columns: list[Any] = [(key, "<f4", (size,)) for key, size in sizes.items()]
    flags = [("rewards", "<f4"), ("terminals", "?"), ("timeouts", "?"), (_SUM, "<u4")]
    return np.dtype([*columns, *flags])


def _sums(rows: np.ndarray) -> list[int]:
    """The checksum of every row."""
    size, content = rows.dtype.itemsize, rows.tobytes()
    return [checksum(content[i : i + size - 4]) for i in range(0, len(content), size)]


def _summed(rows: np.ndarray) -> np.ndarray:
    rows[_SUM] = _sums(rows)
    return rows


def _closed(rows: np.ndarray) -> np.ndarray:
    """The rows, the last one marked as a timeout unless its trajectory has an end."""
    rows = rows.copy()
    if len(rows) and not rows["terminals"][-1]:
        rows["timeouts"][-1] = True
    return rows


def partial_path(path: str | Path) -> Path:
    """Where a Recorder of `path` logs while it runs."""
    return Path(f"{path}.partial")


def read_partial(partial: Path) -> tuple[dict[str, Any], np.ndarray]:
    """(header, whole rows) of a log; a row that was cut off while it was written is left out.

    Raises:
        UserError: it is no such log.
    """
    try:
        with regular_file(partial, "log").open("rb") as file:
            header = parse_json(file.readline(SMALL))
            header = {key: header[key] for key in ("env_id", "metadata", "sizes")}
            dtype = _record(header["sizes"])
            content = file.read()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{str(partial)!r} is no log of a Recorder ({error}); give the .partial file that the "
            "Recorder left."
        ) from error
    rows = np.frombuffer(content, dtype, len(content) // dtype.itemsize)
    damaged = np.flatnonzero(rows[_SUM] != np.array(_sums(rows), np.uint32))
    if len(damaged):
        raise UserError(
            f"log {str(partial)!r} is damaged: row {damaged[0]} of {len(rows)} has another "
            "checksum; put the file back from a copy, or record again."
        )
    return header, _closed(rows)


def read_arrays(partial: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(header, arrays of D4RL's layout) of a log.

    Raises:
        UserError: it is no such log.
    """
    header, rows = read_partial(partial)
    names = [name for name in rows.dtype.names or () if name != _SUM]
    return header, finish_rows({key: np.ascontiguousarray(rows[key]) for key in names})
