"""What a run will need of the machine's memory, told and checked before anything is written."""

import math
import os
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from stratdiff.data.device import DeviceData
from stratdiff.errors import UserError
from stratdiff.training.state import Setup

# Limits of the process's control group, version 2 and version 1.
_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def needs(setup: Setup, seeds: int, data: DeviceData) -> dict[str, int]:
    """Bytes of the data, of the state of all seeds and of what the score stores with the data.

    The state counts twice: a checkpoint copies it.
    """
    one = setup.shapes()
    stored = setup.stored_shapes(one.learned)
    parts = {"networks": one.learned, "replay buffers": one.replay}
    found = {name: 2 * seeds * _size(part) for name, part in parts.items()}
    return {"data": _size(data), "stored with them": seeds * len(data) * _size(stored)} | found


def _size(tree: PyTree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def available() -> int:
    """Bytes of the device that the run is on, or that this process may have of the machine's."""
    stats: Any = jax.devices()[0].memory_stats()
    if stats:  # a CPU has none
        return int(stats["bytes_limit"])
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _GROUPS:
        try:
            limits.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(limits)


def check(setup: Setup, seeds: int, data: DeviceData) -> str:
    """One line on what a run needs.

    Raises:
        UserError: the machine has less.
    """
    try:
        found, limit = needs(setup, seeds, data), available()
    except jax.errors.JAXTypeError:  # a part from outside that cannot be asked for shapes alone
        return "memory     not estimated: a part from outside makes its arrays with NumPy"
    parts = ", ".join(f"{name} {_gigabytes(size)}" for name, size in found.items() if size)
    line = f"{_gigabytes(sum(found.values()))} GB of {_gigabytes(limit)} GB ({parts})"
    if sum(found.values()) > limit:
        raise UserError(
            f"this run needs about {line}, more than there is; use fewer seeds, support actions "
            "or online steps, or smaller networks."
        )
    return f"memory     {line}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f}"
