"""A source of data sets: a folder with one .npz file for each episode.

Put this folder on PYTHONPATH and name the class, then the folder of the episodes, either relative
to the current one (`npz_source:Folder/episodes`) or absolute (`npz_source:Folder//data/episodes`):

    stratdiff train --dataset npz_source:Folder/episodes --env HalfCheetah-v4

An episode of T steps has `observations` (T + 1, S), `actions` (T, A) in [-1, 1], `rewards` (T,) and
`terminated`, which is true if the environment really ended and false if the episode was cut off.
The episodes are taken in the order of their file names.
"""

import zipfile
from pathlib import Path

import numpy as np

from stratdiff.data.dataset import finish_rows, from_arrays
from stratdiff.data.sources import Source
from stratdiff.errors import UserError


def rows_of(episode):
    """An episode as rows in D4RL's layout: T after a real end, else T + 1.

    An episode that was cut off ends with a row that holds its last observation; the row is marked
    as a timeout and is no transition.
    """
    for name in ("observations", "actions", "rewards", "terminated"):
        if name not in episode:
            raise ValueError(f"it has no array {name!r}")
    steps, ended = len(episode["rewards"]), bool(episode["terminated"])
    if len(episode["observations"]) != steps + 1 or len(episode["actions"]) != steps:
        raise ValueError(
            f"{len(episode['observations'])} observations and {len(episode['actions'])} actions "
            f"for {steps} rewards"
        )
    rows = np.arange(steps if ended else steps + 1)
    beyond = [(0, len(rows) - steps)]
    return {
        "observations": episode["observations"][: len(rows)].astype(np.float32),
        "actions": np.pad(episode["actions"], [*beyond, (0, 0)]).astype(np.float32),
        "rewards": np.pad(episode["rewards"], beyond).astype(np.float32),
        "terminals": ended & (rows == steps - 1),
        "timeouts": rows == steps,
    }


class Folder(Source):
    """The `Source`."""

    def find(self, name):
        """Any folder that is there."""
        if not self._path(name).is_dir():
            raise UserError(f"data set {name!r}: {str(self._path(name))!r} is not a folder.")
        return super().find(name)

    def local(self, entry):
        """The folder."""
        return self._path(entry.name)

    def load(self, entry, env="", progress=None):
        """All episodes of the folder."""
        files = sorted(self.local(entry).glob("*.npz"))
        if not files:
            raise UserError(f"data set {entry.name!r}: the folder has no .npz file.")
        episodes = []
        for i, path in enumerate(files):
            try:
                # NumPy refuses arrays of objects, which it would have to unpickle.
                with np.load(path, allow_pickle=False) as file:
                    episodes.append(rows_of(dict(file)))
            except (OSError, ValueError, IndexError, zipfile.BadZipFile) as error:
                raise UserError(f"{str(path)!r} is not such an episode: {error}.") from error
            if progress is not None:
                progress(i + 1, len(files))
        arrays = {key: np.concatenate([rows[key] for rows in episodes]) for key in episodes[0]}
        return from_arrays(entry.name, finish_rows(arrays), env or None)

    def _path(self, name):
        return Path(name.removeprefix(self.prefix))
