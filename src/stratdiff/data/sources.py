"""Where data sets come from: one file a source, found by the first part of a data set's name.

`d4rl/hopper-medium-v2` is the set `hopper-medium-v2` of the source `d4rl`. The path of an HDF5 file
belongs to the source `hdf5`. `my_package:MySource/some-name` is a set of somebody's own source, the
class `MySource` of the module `my_package`; see `Source`.
"""

import abc
import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from stratdiff import registry
from stratdiff.data.dataset import Dataset
from stratdiff.envs.identity import exact
from stratdiff.errors import UserError, nearest
from stratdiff.reading import expanded
from stratdiff.tasks import Returns, find_task

Progress = Callable[[int, int], None]
"""Called with (done, in all), in units of the source: bytes, rows, episodes."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a data set before it is loaded; None: unknown, or its data say it."""

    name: str
    """With the source in front, `d4rl/hopper-medium-v2`."""
    env_id: str | None = None
    """The environment to train in; None: `--env` has to name it."""
    horizon: int | None = None
    """Steps after which an episode is cut off."""
    reference_returns: Returns | None = None
    rows: int | None = None
    episodes: int | None = None
    urls: tuple[str, ...] = ()
    """Where it is downloaded from, tried in turn."""
    sha256: str | None = None
    """Checksum of the file that is downloaded, where known."""
    env_spec: str = ""
    """Gymnasium's EnvSpec of the environment as JSON, where an id is not enough."""


class Source(abc.ABC):
    """A source of data sets. One of your own is a subclass with `load`, in any module:

        class MySource(Source):
            def load(self, entry, env="", progress=None):
                arrays = my_reader(entry.name.removeprefix(self.prefix))
                return from_arrays(entry.name, arrays, entry.env_id)

    (`stratdiff.data.dataset.from_arrays` takes float32 arrays in D4RL's layout.) Its sets are named
    `module:MySource/NAME` wherever the package takes a data set's name, as in `--dataset
    my_package:MySource/some-name`. The module is imported only if the user has named it on the
    command line or has trusted it (`stratdiff.registry.trust`), not if only a file names it.

    The package's own sources are also listed in `SOURCES`, which lets `data list` show their
    `entries`. A source is made, without arguments but its prefix, whenever it is asked.
    """

    keeps_hdf5: ClassVar[bool] = False
    """Whether what `local` gives is a D4RL-format HDF5 file."""

    def __init__(self, prefix: str) -> None:
        """`prefix`: what the names of its sets start with, such as `d4rl/`."""
        self.prefix = prefix

    def entries(self) -> Iterable[Entry]:
        """The sets that are known by name."""
        return ()

    def find(self, name: str) -> Entry | None:
        """The set of a name; None: there is none. Without `entries` any name may be one.

        Raises:
            UserError: the name may be one but cannot be read.
        """
        known = {entry.name: entry for entry in self.entries()}
        return known.get(name) if known else Entry(name)

    def local(self, entry: Entry) -> Path | None:
        """Where the set is on this machine; None: nowhere yet."""
        return None

    @abc.abstractmethod
    def load(self, entry: Entry, env: str = "", progress: Progress | None = None) -> Dataset:
        """The set, made or downloaded where it is not on this machine.

        `env`: the environment that the user named, as `tasks.load_env` takes it, for data that do
        not tell their episodes' ends.

        Raises:
            UserError: the data cannot be had or cannot be trained on.
        """
        ...


SOURCES: registry.Registry[Source] = registry.Registry(
    "--dataset",
    {
        "stratdiff": "stratdiff.data.made.store:Made",
        "d4rl": "stratdiff.data.d4rl:D4RL",
        "minari": "stratdiff.data.minari:Minari",
        "ogbench": "stratdiff.data.ogbench:OGBench",
        "hf:": "stratdiff.data.hub:Hub",
        "hdf5": "stratdiff.data.hdf5:Files",
    },
    members=("entries", "find", "local", "load", "keeps_hdf5"),
)


HUB = "hf://"
"""How the name of a file on the Hugging Face hub starts, of the source `hf:`."""


def is_file(name: str) -> bool:
    """Whether the user means a file, not a name."""
    name = expanded(name)
    if name.startswith(HUB):
        return False
    try:
        return Path(name).suffix in (".hdf5", ".h5") or Path(name).exists()
    except OSError:  # a name too long for a path
        return False


def absolute(name: str) -> str:
    """The path of a file that is there from the root; any other name as it is."""
    return str(Path(name).absolute()) if is_file(name) and Path(name).exists() else name


def source_of(name: str) -> Source | None:
    """The source of a data set's name; None: there is none.

    Raises:
        UserError: only a file has named its module, or the module cannot be imported.
    """
    if is_file(name):
        return SOURCES.find("hdf5")("")
    head, slash, _ = name.partition("/")
    somebodys = re.fullmatch(r"[\w.]+:\w+", head)
    if not slash or not (somebodys or head in SOURCES):
        return None
    if somebodys and head not in registry.trusted():
        registry.check_trusted(name, "--dataset")
        registry.trust(head)
    return SOURCES.find(head)(head + slash)


def locate(name: str) -> tuple[Source, Entry]:
    """The source of a data set and what it knows of it before it is loaded.

    Raises:
        UserError: there is no such data set, the file cannot be read, or see `source_of`.
    """
    name = expanded(name)
    source = source_of(name)
    entry = source.find(name) if source else None
    if source is None or entry is None:
        near = nearest(name, [entry.name for entry in entries()])
        raise UserError(
            f"unknown data set {name!r}; did you mean {near}? Or give the path of an HDF5 file."
        )
    return source, entry


def entries() -> list[Entry]:
    """All data sets known by name, of the package's own sources."""
    return [entry for head in SOURCES.names() for entry in SOURCES.find(head)(f"{head}/").entries()]


def check(name: str, env: str = "") -> None:
    """Find what would keep a data set from being trained on, without loading it.

    Raises:
        UserError: nothing of that name, a file that cannot be read, or no environment is known.
    """
    entry = locate(name)[1]
    env = env or exact(entry.env_id or "", entry.env_spec)
    if env:
        find_task(env)
    elif is_file(name):
        raise UserError(f"data file {name!r} does not name its environment; give it as `env`.")


def load_dataset(name: str, env: str = "", progress: Progress | None = None) -> Dataset:
    """The data set of a name of `stratdiff data list`, or of an HDF5 file's path.

    `stratdiff/...` sets are made on first use; `d4rl/...` and `minari/...` ones are downloaded
    where they are not on this machine. `my_package:MySource/...` is a set of your own source (see
    `Source`), whose module is imported because it is named here. `env` is needed for a file without
    `timeouts` that does not name its environment.

    Raises:
        UserError: nothing of that name, or the data cannot be had or not be trained on.
    """
    registry.trust(name, env)
    return load(name, env, progress)


def load(name: str, env: str = "", progress: Progress | None = None) -> Dataset:
    """As `load_dataset`, for a name from a file: a module that it names needs trust."""
    source, entry = locate(name)
    return source.load(entry, env, progress)


def environment_of(name: str) -> str | None:
    """The environment of a data set, without loading it; None where it is not known yet."""
    try:
        return locate(name)[1].env_id
    except UserError:  # loading it will report the error in full
        return None
