"""Find a data set by what the user called it."""

from collections.abc import Callable
from pathlib import Path

from stratdiff.data import catalogue, d4rl, generate, minari
from stratdiff.data.dataset import Dataset
from stratdiff.errors import UserError
from stratdiff.tasks import find_task

Progress = Callable[[int, int], None]


def is_file(name: str) -> bool:
    """Whether the user means a file, not a name of the catalogue."""
    try:
        return Path(name).suffix in (".hdf5", ".h5") or Path(name).exists()
    except OSError:  # a name too long for a path
        return False


def check(name: str, env: str = "") -> None:
    """Find what would keep a data set from being trained on, without loading it.

    Raises:
        UserError: nothing of that name, a file that cannot be read, or no environment is known.
    """
    if not is_file(name):
        catalogue.find(name)
    elif Path(name).is_dir():
        raise UserError(f"data file {name!r} is a folder; give an HDF5 file in D4RL's format.")
    else:
        d4rl.read_attributes(name)
    env = env or environment_of(name) or ""
    if env:
        find_task(env)
    elif is_file(name):
        raise UserError(f"data file {name!r} does not name its environment; give it as `env`.")


def load_dataset(name: str, env: str = "", progress: Progress | None = None) -> Dataset:
    """The data set of a name of the catalogue, or of an HDF5 file's path.

    `stratdiff/...` sets are made on first use; `d4rl/...` and `minari/...` ones are downloaded
    where they are not on this machine. `env` is needed for a file without `timeouts` that does not
    name its environment.

    Raises:
        UserError: nothing of that name, or the data cannot be had or not be trained on.
    """
    if is_file(name):
        horizon = find_task(env).horizon if env else None
        return d4rl.read(name, horizon)
    entry = catalogue.find(name)
    if entry.source == "stratdiff":
        return generate.load(name, progress)
    if entry.source == "minari":
        return minari.load(name, progress)
    return catalogue.load_d4rl(entry, progress)


def environment_of(name: str) -> str | None:
    """The environment of a data set, without loading it; None where it is not known yet."""
    try:
        if not is_file(name):
            return catalogue.find(name).env_id
        found = d4rl.read_attributes(name).get("env_id")
    except UserError:  # said again, with all that is wrong, when it is loaded
        return None
    return found if isinstance(found, str) else None
