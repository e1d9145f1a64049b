"""Find a data set by what the user called it."""

from pathlib import Path

from stratdiff.data import d4rl, generate
from stratdiff.data.dataset import Dataset
from stratdiff.errors import UserError
from stratdiff.tasks import find_task


def load_dataset(name: str, env: str = "", progress: generate.Progress | None = None) -> Dataset:
    """The data set of a name (`stratdiff/...`, made on first use) or of an HDF5 file's path.

    `env` is needed for a file without `timeouts` that does not name its environment.

    Raises:
        UserError: nothing of that name, or the file cannot be trained on.
    """
    if name.startswith("stratdiff/"):
        return generate.load(name, progress=progress)
    if Path(name).suffix in (".hdf5", ".h5") or Path(name).exists():
        horizon = find_task(env).horizon if env else None
        return d4rl.read(name, horizon)
    raise UserError(
        f"unknown data set {name!r}: it is no file and no known name; give the path of an HDF5 "
        f"file or one of {', '.join(generate.NAMES)}."
    )
