"""The source of made sets and the folder that keeps them; missing ones are made.

The same name, size and seed give the same bits whatever the number of cores (see `lanes`).
"""

import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np

from stratdiff.data import hdf5
from stratdiff.data.dataset import Dataset
from stratdiff.data.made.recipes import RECIPES, STITCHED, VERSION, MadeSet, find
from stratdiff.data.sources import Entry, Progress, Source
from stratdiff.envs.mazes import HORIZONS
from stratdiff.errors import UserError
from stratdiff.files import check_seal, lock_file
from stratdiff.reading import cache_dir
from stratdiff.tasks import facts

_FLAGS = ("terminals", "timeouts")
_KEYS = ("observations", "actions", "rewards", *_FLAGS, "infos/qpos", "infos/qvel")


class Made(Source):
    """Sets made here, from the cache or made when they are first loaded."""

    keeps_hdf5 = True

    def entries(self) -> Iterator[Entry]:
        for name, recipe in RECIPES.items():
            horizon = HORIZONS[recipe.maze] if recipe.maze else 1000
            returns = facts(recipe.env_id).reference_returns
            yield Entry(name, recipe.env_id, horizon, returns, recipe.rows)

    def local(self, entry: Entry) -> Path | None:
        path = cached(entry.name)
        return path if path.is_file() else None

    def load(self, entry: Entry, env: str = "", progress: Progress | None = None) -> Dataset:
        return hdf5.read(make(entry.name, progress=progress), name=entry.name)


def cached(name: str, size: int | None = None, seed: int = 0) -> Path:
    """The file that a made set has, or will have."""
    recipe = find(name)
    rows = "" if size in (None, recipe.rows) else f"-n{size}"
    return cache_dir() / f"{recipe.stem}-r{VERSION}-s{seed}{rows}.hdf5"


def make(
    name: str,
    size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    jobs: int | None = None,
) -> Path:
    """The file of a made set, made first if it is missing or damaged.

    `jobs`: processes, default one a core.

    Raises:
        UserError: the name is unknown, the size is not positive, or the file cannot be written.
    """
    recipe = find(name)
    size = recipe.rows if size is None else size
    if size < 2:
        raise UserError(f"--size is {size}; it must be 2 rows or more.")
    path = cached(name, size, seed)
    if _is_whole(path):
        shutil.rmtree(_parts(path), ignore_errors=True)  # of a process that was killed at the end
        return path
    try:
        with lock_file(path):
            if not _is_whole(path):
                _make(recipe, size, seed, path, progress, jobs)
    except OSError as error:
        raise UserError(
            f"folder {str(path.parent)!r} for made data sets cannot be written "
            f"({error.strerror}); free it, or choose another with the environment variable "
            "STRATDIFF_CACHE."
        ) from error
    return path


def _parts(path: Path) -> Path:
    """Where the chunks of a set are while it is made."""
    return path.with_suffix(".parts")


def _is_whole(path: Path) -> bool:
    """Whether the file is there and undamaged; sets of earlier versions have no seal."""
    try:
        check_seal(path, required=False)
    except (OSError, ValueError):
        return False
    return True


def _make(
    recipe: MadeSet, size: int, seed: int, path: Path, progress: Progress | None, jobs: int | None
) -> None:
    """Write the set into `path`."""
    from stratdiff.data.made import lanes, workers  # they load the simulator

    work = _parts(path)
    if recipe.variant in STITCHED:
        arrays = _stitch(recipe, size, seed, progress, jobs)
    else:
        work.mkdir(exist_ok=True)
        arrays = workers.collect(lanes.Part(recipe, size, seed), work, jobs, progress)
    versions = {key: metadata.version(key) for key in ("mujoco", "gymnasium", "stratdiff")}
    about: dict[str, str | int] = {**versions, "name": recipe.name, "recipe": VERSION, "seed": seed}
    hdf5.write(path, arrays, recipe.env_id, about, sealed=True)
    shutil.rmtree(work, ignore_errors=True)


def _stitch(
    recipe: MadeSet, size: int, seed: int, progress: Progress | None, jobs: int | None
) -> dict[str, np.ndarray]:
    """Equal parts of sets of one policy each; all but the last end with a whole episode."""
    levels = STITCHED[recipe.variant]
    parts, before = [], 0
    for i, level in enumerate(levels):
        rows = size // len(levels) if i + 1 < len(levels) else size - before

        def tell(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, size)

        path = make(f"stratdiff/{recipe.family}-{level}", rows, seed, tell, jobs)
        part = hdf5.read_arrays(path, _KEYS)
        part |= {key: part[key] > 0.5 for key in _FLAGS}
        before += rows
        if i + 1 < len(levels):
            last = np.flatnonzero(part["terminals"] | part["timeouts"])
            stop = last[-1] + 1 if len(last) else rows
            part = {key: value[:stop] for key, value in part.items()}
        parts.append(part)
    return {key: np.concatenate([part[key] for part in parts]) for key in _KEYS}
