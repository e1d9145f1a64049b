"""HDF5 files that keep every episode apart, read as the arrays of all episodes.

d3rlpy 2 writes `observations_0`, `actions_0`, `terminated_0` (d3rlpy/dataset/io.py), Minari groups
`episode_0`, robomimic `data/demo_0` (docs/datasets/overview.md), ManiSkill `traj_0`.
"""

import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from stratdiff.data.layouts import ADDED, FLAGS, NAMES
from stratdiff.errors import UserError

_GROUP = re.compile(r"(?:demo|episode|traj|trajectory)_(\d+)")
_COLUMN = re.compile(r"(\w+?)_(\d+)")

Children = Callable[[str], list[str]]
"""The names below a path of the file."""


def join(
    children: Children, load: Callable[[str], np.ndarray], keys: Mapping[str, str], where: str
) -> dict[str, np.ndarray] | None:
    """The arrays of all episodes, one after the other; None: the file keeps no episodes apart.

    `load`: an array of the file as float32; `keys`: names of arrays in an episode by role, as the
    user gives them. Observations may have one row more than there are steps; all arrays then get
    that row, and `ADDED` says where.

    Raises:
        UserError: an episode lacks an array that others have, or its arrays differ in length.
    """
    episodes = [*_episodes(children)]
    if not episodes:
        return None
    # Rows of an episode are in order, so stored next observations say nothing new.
    known = {
        *FLAGS,
        *(name for role in ("observations", "actions", "rewards") for name in NAMES[role]),
    }
    known -= {name for role in keys for name in NAMES.get(role, ())}
    chosen = {name for key in keys.values() for name in key.split(",") if name}
    wanted = sorted({name for name in episodes[0] if name in known} | chosen)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*wanted, "ends", ADDED)}
    for number, episode in enumerate(episodes):
        arrays = {name: load(episode.get(name) or f"{episode['']}/{name}") for name in wanted}
        actions = [array for name, array in arrays.items() if name in _actions(keys)]
        steps = len(actions[0]) if actions else 0
        rows = steps + any(array.shape[:1] == (steps + 1,) for array in arrays.values())
        for name, array in arrays.items():
            parts[name].append(_rows(array, steps, rows, f"{where}, episode {number}: {name!r}"))
        parts["ends"].append((np.arange(rows) == rows - 1).astype(np.float32))
        parts[ADDED].append((np.arange(rows) >= steps).astype(np.float32))
    return {name: np.concatenate(arrays) for name, arrays in parts.items() if arrays}


def _actions(keys: Mapping[str, str]) -> tuple[str, ...]:
    return (keys["actions"].split(",")[0],) if keys.get("actions") else NAMES["actions"]


def _episodes(children: Children) -> Iterator[dict[str, str]]:
    """Paths by name of every episode, in order; '' is the path of the episode's group."""
    names = children("")
    if {"columns", "num_episodes"} <= {*names}:  # d3rlpy
        columns: dict[int, dict[str, str]] = {}
        for name in names:
            if match := _COLUMN.fullmatch(name):
                columns.setdefault(int(match[2]), {"": ""})[match[1]] = name
        yield from (columns[number] for number in sorted(columns))
        return
    prefix = "" if any(map(_GROUP.fullmatch, names)) else "data/"
    inner = names if not prefix else children("data") if "data" in names else []
    groups = [name for name in inner if _GROUP.fullmatch(name)]
    for name in sorted(groups, key=lambda name: int(name.rpartition("_")[2])):
        path = prefix + name
        yield {"": path} | {key: f"{path}/{key}" for key in children(path)}


def _rows(array: np.ndarray, steps: int, rows: int, where: str) -> np.ndarray:
    """The array with so many rows; one value for the episode stands at its last step."""
    if array.ndim == 0:
        array = np.where(np.arange(steps) == steps - 1, array, 0).astype(np.float32)
    if len(array) == steps < rows:
        array = np.concatenate([array, np.zeros((1, *array.shape[1:]), np.float32)])
    if len(array) != rows:
        raise UserError(f"{where} has {len(array)} rows for {steps} steps; each step needs one.")
    return array
