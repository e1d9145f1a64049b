"""OGBench's single-task data sets: found on this machine or downloaded, labelled by OGBench itself.

A file holds `observations`, `actions`, `terminals` (the last row of each trajectory, whose action
has no next state) and `qpos` (ogbench/utils.py, `load_dataset`). Rewards are those of a task:
`relabel_dataset` of ogbench/relabel_utils.py gives -1, and 0 with a mask of 0 in states within the
goal's radius. Here they are 0 and 1, as `envs.ogbench.SingleTask` gives them.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stratdiff import reading
from stratdiff.data import d4rl, download
from stratdiff.data.dataset import Dataset, finish_rows, from_arrays
from stratdiff.data.sources import Entry, Progress, Source
from stratdiff.envs import ogbench
from stratdiff.errors import UserError
from stratdiff.reading import expanded, home

SERVER = "https://rail.eecs.berkeley.edu/datasets/ogbench/"
FOLDER = "OGBENCH_DATASET_DIR"
"""Environment variable with the folder of OGBench's files; by default it is OGBench's own."""
_NAME = re.compile(r"(\w+-\w+)-(\w+)-(singletask(?:-task[1-5])?)-v0")
_KEYS = ("observations", "actions", "terminals", "qpos")


class OGBench(Source):
    """Sets of the mazes, `ogbench/antmaze-medium-navigate-singletask-v0` or `-task1-v0` to 5."""

    def entries(self) -> Iterator[Entry]:
        """Those of the mazes' default tasks."""
        for maze, facts in ogbench.MAZES.items():
            for kind in facts.kinds:
                yield self._entry(maze, kind, ogbench.TASKS[0])

    def find(self, name: str) -> Entry | None:
        found = _NAME.fullmatch(name.removeprefix(self.prefix))
        if found is None:
            return None
        maze, kind, task = found.groups()
        known = ogbench.MAZES.get(maze)
        return self._entry(maze, kind, task) if known and kind in known.kinds else None

    def _entry(self, maze: str, kind: str, task: str) -> Entry:
        return Entry(
            f"{self.prefix}{maze}-{kind}-{task}-v0",
            f"stratdiff/ogbench-{maze}-{task}-v0",
            ogbench.MAZES[maze].horizon,
            (0.0, 1.0),
            urls=(f"{SERVER}{maze}-{kind}-v0.npz",),  # the same file for every task
        )

    def local(self, entry: Entry) -> Path | None:
        path = target(entry)
        return path if path.is_file() else None

    def load(self, entry: Entry, env: str = "", progress: Progress | None = None) -> Dataset:
        """See `Source`; refused too: without the package ogbench, which labels the rows."""
        path, env_id = target(entry), str(entry.env_id)
        task = ogbench.make(env_id.removeprefix("stratdiff/ogbench-"))
        if not path.is_file():
            urls = d4rl.addresses(entry, SERVER)
            download.fetch(urls, path, progress, lambda file: _check(file, "data file"))
        _check(path, "data file")
        return from_arrays(entry.name, _label(_arrays(path), task, env_id), env_id)


def target(entry: Entry) -> Path:
    """Where an entry's file is, or is downloaded to."""
    chosen = os.environ.get(FOLDER)
    folder = Path(expanded(chosen)) if chosen else home() / ".ogbench" / "data"
    return folder / entry.urls[0].rpartition("/")[2]


def _check(path: Path, what: str) -> None:
    """Refuse a file without the arrays of OGBench's sets."""
    missing = [key for key in _KEYS if key not in reading.npz_keys(path, what)]
    if missing:
        raise UserError(
            f"{what} {str(path)!r} has no array {missing[0]!r}, so it is none of OGBench's sets; "
            "remove it, and it is downloaded again."
        )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, float32 but for `qpos`, which OGBench compares as it is."""
    arrays = reading.read_npz(path, "data file", _KEYS)
    for key, columns in (("observations", 2), ("actions", 2), ("terminals", 1), ("qpos", 2)):
        if arrays[key].ndim != columns or arrays[key].dtype.kind not in "fbiu":
            raise UserError(
                f"data file {str(path)!r}: {key!r} has shape {arrays[key].shape} and type "
                f"{arrays[key].dtype}; numbers of {columns} dimensions are needed."
            )
        if key != "qpos":
            arrays[key] = arrays[key].astype(np.float32, copy=False)
    return arrays


def _label(
    arrays: dict[str, np.ndarray], task: ogbench.SingleTask, env_id: str
) -> dict[str, np.ndarray]:
    """D4RL's rows: OGBench's labels of a task, and time limits where trajectories end."""
    from ogbench.relabel_utils import relabel_dataset

    labels = {"qpos": arrays.pop("qpos")}
    relabel_dataset(env_id, task, labels)
    task.close()
    timeouts = arrays.pop("terminals") > 0.5
    # The last row of a trajectory is no step, whatever its state.
    terminals = (labels["masks"] == 0) & ~timeouts
    rewards = labels["rewards"] + 1
    return finish_rows(arrays | {"rewards": rewards, "terminals": terminals, "timeouts": timeouts})
