"""Reading what others wrote: within bounds of memory and time, and nothing but the file itself.

Whatever is wrong with a file is one `UserError`. Nothing is unpickled, nothing waits for a pipe,
and sizes that a file declares are compared with what it holds before any memory is taken.
"""

import json
import math
import os
import stat
import struct
import sys
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.errors import UserError
from stratdiff.files import unsummed

TEXT_LIMIT = 2**26
"""Bytes that a file of text may have."""
SMALL = 2**18
"""Bytes that a file of options may have."""
_DEPTH = 32
"""Levels of tables in tables; more than any file of ours has, less than recursion allows."""
_DOTS = 100
# Deflate, the usual compression of npz and HDF5, makes at most this much of a byte.
EXPANSION = 1032
# Parts of files whose size does not grow with the data: headers, indices.
OVERHEAD = 2**16
_TENSORS_HEADER = 2**22
# What zipfile and NumPy raise for a damaged file, depending on where the damage is.
_DAMAGE = (
    OSError, ValueError, LookupError, TypeError, ArithmeticError, EOFError, RuntimeError,
    MemoryError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def home() -> Path:
    """The user's home folder; a folder of the user's below the temporary one if there is none."""
    try:
        return Path.home()
    except RuntimeError:  # no $HOME, and a user that the system does not know
        return Path(tempfile.gettempdir()) / f"stratdiff-{os.getuid()}"


def expanded(path: str) -> str:
    """The path with the home folder for a `~` in front."""
    return str(home() / path[2:]) if path.startswith("~/") else str(home()) if path == "~" else path


def cache_dir() -> Path:
    """What can be made again: $STRATDIFF_CACHE, or stratdiff below the user's cache folder."""
    if chosen := os.environ.get("STRATDIFF_CACHE"):
        return Path(expanded(chosen))
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "stratdiff"


def regular_file(path: str | Path, what: str, advice: str = "") -> Path:
    """The path of a file that can be opened without waiting; `what`: what messages call it.

    Raises:
        UserError: there is nothing, or a folder, pipe, device or socket.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{what} {str(path)!r} does not exist; {advice or 'check the path'}."
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} {str(path)!r} could not be read ({reason}).") from error
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise UserError(f"{what} {str(path)!r} is {kind}; {advice or 'give a file'}.")
    return path


def read_text(path: str | Path, what: str, limit: int = TEXT_LIMIT) -> str:
    """A UTF-8 text, with or without a byte order mark.

    Raises:
        UserError: see `regular_file`; it is larger than `limit` bytes, or is no UTF-8.
    """
    path = regular_file(path, what)
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"it has more than {limit:,} bytes")
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise _unreadable(path, what, "text in UTF-8", error) from error


def read_json(path: str | Path, what: str, limit: int = TEXT_LIMIT) -> Any:
    """The value of a JSON file of at most `limit` bytes.

    Raises:
        UserError: see `read_text` and `parse_json`.
    """
    return _parsed(path, what, limit, parse_json, "JSON")


def read_table(path: str | Path, what: str, limit: int = TEXT_LIMIT) -> dict[str, Any]:
    """The object of a JSON file, whose checksum is checked where it has one.

    Raises:
        UserError: see `read_json`; it holds something else, or the checksum is another.
    """
    found = read_json(path, what, limit)
    if not isinstance(found, dict):
        raise UserError(f"{what} {str(path)!r} does not hold one JSON object.")
    try:
        return unsummed(found) if "crc32" in found else found
    except ValueError as error:
        raise UserError(f"{what} {str(path)!r} is damaged: {error}.") from error


def read_toml(path: str | Path, what: str) -> dict[str, Any]:
    """The table of a TOML file.

    Raises:
        UserError: see `read_text`; it is no TOML, or its values are refused (see `parse_json`).
    """
    return _parsed(path, what, SMALL, _parse_toml, "TOML")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON; or it is nested too deep, or holds a number that is not finite or
            does not fit into 64 bits, or text that cannot be printed or be part of a path.
    """
    try:
        return _plain(json.loads(text))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _parse_toml(text: str) -> dict[str, Any]:
    # tomllib takes time with the square of the dots of a key: minutes for a small file.
    if max((line.count(".") for line in text.splitlines()), default=0) > _DOTS:
        raise ValueError(f"a line has more than {_DOTS} dots")
    return _plain(tomllib.loads(text))


def _parsed(path: str | Path, what: str, limit: int, parse: Callable[[str], Any], kind: str) -> Any:
    text = read_text(path, what, limit)
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, what, kind, error) from error


def _unreadable(path: str | Path, what: str, kind: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return UserError(f"{what} {str(path)!r} could not be read as {kind}: {reason[:500]}.")


def _plain(value: Any) -> Any:
    """The value itself; ValueError where it holds what nothing of ours could use."""
    level = [value]
    for _ in range(_DEPTH):
        for item in level:
            if isinstance(item, str):
                item.encode()  # no lone surrogates
                if "\0" in item:
                    raise ValueError("a text holds the character NUL")
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"it holds a number that is not finite ({item})")
            elif isinstance(item, int) and abs(item) >= 2**63:
                raise ValueError("it holds a number that does not fit into 64 bits")
        inner = (i.values() if isinstance(i, dict) else i for i in level if _holds(i))
        keys = [key for item in level if isinstance(item, dict) for key in item]
        level = [*(x for values in inner for x in values), *keys]
        if not level:
            return value
    raise ValueError(f"it is nested deeper than {_DEPTH} levels")


def _holds(item: Any) -> bool:
    return isinstance(item, dict | list)


def read_safetensors(path: str | Path, what: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays, metadata) of a safetensors file.

    Raises:
        UserError: see `regular_file`; it is no such file, or is cut off.
    """
    from safetensors import SafetensorError, safe_open

    path = regular_file(path, what)
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > min(_TENSORS_HEADER, path.stat().st_size):
            raise ValueError(f"its header is said to have {header:,} bytes")
        with safe_open(path, "np") as tensors:
            names, metadata = tensors.keys(), tensors.metadata() or {}
            return {name: tensors.get_tensor(name) for name in names}, metadata
    except (OSError, ValueError, TypeError, MemoryError, SafetensorError) as error:
        raise _unreadable(path, what, "safetensors", error) from error


def read_npz(
    path: str | Path, what: str, keys: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; with `keys`, those of them that it has.

    Raises:
        UserError: see `regular_file`; it is no such file, is damaged or encrypted, or an array is
            no plain one or is not all there.
    """
    path = regular_file(path, what)
    try:
        with zipfile.ZipFile(path) as file:
            wanted = [key for key in _members(file) if keys is None or key in keys]
            where = f"{what} {str(path)!r}"
            return {key: _read_member(file, f"{key}.npy", where) for key in wanted}
    except _DAMAGE as error:
        raise _unreadable(path, what, "an .npz file of plain arrays", error) from error


def npz_keys(path: str | Path, what: str) -> list[str]:
    """The names of the arrays of an .npz file.

    Raises:
        UserError: see `read_npz`.
    """
    path = regular_file(path, what)
    try:
        with zipfile.ZipFile(path) as file:
            return _members(file)
    except _DAMAGE as error:
        raise _unreadable(path, what, "an .npz file of plain arrays", error) from error


def _members(file: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")]


def _read_member(file: zipfile.ZipFile, member: str, where: str) -> np.ndarray:
    info = file.getinfo(member)
    if info.flag_bits & 1:
        raise ValueError(f"{member} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member} is compressed in a way that numpy.savez does not write")
    check_declared(info.file_size, info.compress_size, f"{where}: {member}")
    with file.open(info) as stream:
        return _plain_array(stream, info.file_size, member)


def _plain_array(stream: Any, stored: int, name: str) -> np.ndarray:
    """The array of a stream of `stored` bytes. ValueError where its header says something else."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        shape, _, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # of NumPy, of the Python parser that it calls, of zlib
        raise ValueError(f"{name} has no header that can be read") from error
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    if math.prod(shape) * dtype.itemsize != stored - stream.tell():
        raise ValueError(f"{name} declares the shape {shape} and has {stored:,} bytes")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def check_declared(declared: int, stored: int, where: str) -> None:
    """Refuse data of which only the size is there, before memory is taken for them.

    `declared`: bytes that they have in memory; `stored`: bytes in the file, maybe compressed;
    `where` begins the sentence.

    Raises:
        UserError: no compression makes so much of so little, or it exceeds the machine's memory.
    """
    if declared > EXPANSION * stored + OVERHEAD:
        raise UserError(
            f"{where} declares {declared:,} bytes and {stored:,} are stored; the file is damaged "
            "or made up, so copy it again."
        )
    memory = machine_memory()
    if declared > memory:
        raise UserError(
            f"{where} needs {declared / 2**30:,.1f} GiB of memory and this machine has "
            f"{memory / 2**30:,.1f}; use a smaller set, or a larger machine."
        )


def machine_memory() -> int:
    """Bytes of memory that this machine has; where it does not tell, more than there are."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on every system
        return sys.maxsize
