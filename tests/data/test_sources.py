"""Names of all sources, a source of somebody's own, and what may be imported."""

import subprocess
import sys

import numpy as np
import pointmass
import pytest

import stratdiff
from stratdiff import registry
from stratdiff.data import hdf5, sources
from stratdiff.data.sources import Entry, Source
from stratdiff.errors import UserError
from stratdiff.tasks import find_task


def of_source(source):
    return {e.name: e for e in sources.entries() if e.name.startswith(f"{source}/")}


def test_made_and_minari_names():
    made = of_source("stratdiff")
    assert len(made) == 27
    entry = made["stratdiff/walker2d-full-replay"]
    assert (entry.env_id, entry.horizon) == ("Walker2d-v4", 1000)
    assert entry.reference_returns == (1.629008, 4592.3)
    entry = made["stratdiff/antmaze-umaze-diverse"]
    assert (entry.env_id, entry.horizon) == ("stratdiff/AntMaze-umaze-v2", 700)
    assert "stratdiff/antmaze-umaze" in made and "stratdiff/antmaze-large-play" in made
    minari = of_source("minari")
    assert len(minari) == 41
    for name in (
        "mujoco/halfcheetah/medium-v0",
        "D4RL/antmaze/large-diverse-v1",
        "D4RL/pointmaze/open-dense-v2",
        "D4RL/relocate/cloned-v2",
        "D4RL/kitchen/mixed-v2",
    ):
        assert minari[f"minari/{name}"] == Entry(f"minari/{name}")


def test_names_are_unique_and_carry_their_source():
    names = [entry.name for entry in sources.entries()]
    assert len(names) == len(set(names)) == 148 + 27 + 41 + 29
    for entry in sources.entries():
        assert entry.name.partition("/")[0] in sources.SOURCES
        assert sources.locate(entry.name)[1] == entry


@pytest.mark.parametrize("env_id", sorted({e.env_id for e in sources.entries() if e.env_id}))
def test_environments_exist_and_agree(env_id):
    task = find_task(env_id)
    for entry in sources.entries():
        if entry.env_id == env_id:
            assert entry.horizon == task.horizon
            if task.reference_returns is not None:
                assert entry.reference_returns == task.reference_returns


def test_any_minari_id_is_accepted():
    _, entry = sources.locate("minari/me/my-robot/test-v3")
    assert entry == Entry("minari/me/my-robot/test-v3")


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("d4rl/hoper-medium-v2", "d4rl/hopper-medium-v2"),
        ("hopper-medium-v2", "d4rl/hopper-medium-v2"),
        ("stratdiff/antmaze-large", "stratdiff/antmaze-large-play"),
        ("minari/", "minari/"),
    ],
)
def test_unknown_name(name, close):
    with pytest.raises(UserError, match="unknown data set") as caught:
        sources.locate(name)
    assert repr(name) in str(caught.value) and close in str(caught.value)


# Files


def test_files(tmp_path, data_file):
    source, entry = sources.locate(str(data_file))
    assert entry == Entry(str(data_file), pointmass.ENV) and source.local(entry) == data_file
    assert sources.environment_of(str(data_file)) == pointmass.ENV
    assert sources.environment_of(str(tmp_path / "none.hdf5")) is None
    sources.check(str(data_file))
    with pytest.raises(UserError, match="is a folder; give an HDF5 file"):
        sources.check(str(tmp_path))
    hdf5.write(tmp_path / "nameless.hdf5", pointmass.make_arrays(episodes=2), "")
    with pytest.raises(UserError, match="does not name its environment"):
        sources.check(str(tmp_path / "nameless.hdf5"))
    sources.check(str(tmp_path / "nameless.hdf5"), "Hopper-v4")
    with pytest.raises(UserError, match="'Hoper-v4'"):
        sources.check(str(tmp_path / "nameless.hdf5"), "Hoper-v4")


# A source of somebody's own, in a module outside of the package

MODULE = """
import numpy as np
import pointmass
from stratdiff.data.dataset import from_arrays
from stratdiff.data.sources import Entry, Source

class Clumsy(Source):
    def find(self, name):
        seed = name.removeprefix(self.prefix)
        return Entry(name, pointmass.ENV) if seed.isdigit() else None

    def load(self, entry, env="", progress=None):
        seed = int(entry.name.removeprefix(self.prefix))
        arrays = pointmass.make_arrays(episodes=3, seed=seed)
        return from_arrays(entry.name, arrays, entry.env_id, metadata={"author": "me"})

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_sets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_trusted", set())
    yield "my_sets"
    sys.modules.pop("my_sets", None)


def test_own_source(module, tmp_path, monkeypatch):
    name = f"{module}:Clumsy/7"
    registry.trust(name)
    assert sources.environment_of(name) == pointmass.ENV
    dataset = sources.load_dataset(name)
    assert (dataset.name, dataset.env_id) == (name, pointmass.ENV)
    np.testing.assert_array_equal(dataset.rewards, pointmass.make_arrays(3, 7)["rewards"])
    with pytest.raises(UserError, match="unknown data set"):
        sources.load_dataset(f"{module}:Clumsy/seven")
    # As a file of the package's own.
    from stratdiff.data.tools.convert import convert

    convert(name, str(tmp_path / "seven.hdf5"))
    written = hdf5.read(tmp_path / "seven.hdf5")
    assert written.fingerprint == dataset.fingerprint
    assert (written.env_id, written.metadata["author"]) == (pointmass.ENV, "me")


def test_own_source_that_only_a_file_names(module):
    name = f"{module}:Clumsy/7"
    with pytest.raises(UserError, match=f"'{name}' is code that a file names as --dataset"):
        sources.load(name)
    assert sources.environment_of(name) is None
    assert module not in sys.modules
    # A program that names it has named it.
    assert len(sources.load_dataset(name).episode_returns) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_sets:Clumsier/7", "nearest: Clumsy"),
        ("my_sets:number/7", "is no class"),
        ("no_sets:Clumsy/7", "could not be imported"),
        ("my_sets:Clumsy", "unknown data set"),
        ("http://example.org/set", "unknown data set"),
    ],
)
def test_own_source_that_is_not_there(module, name, words):
    registry.trust("*")
    with pytest.raises(UserError, match=words):
        sources.load_dataset(name)


def test_defaults_of_a_source():
    with pytest.raises(TypeError, match=r"abstract method '?load"):
        Source("mine/")

    class Mine(Source):
        def load(self, entry, env="", progress=None):
            return None

    source = Mine("mine/")
    assert list(source.entries()) == [] and source.find("mine/a") == Entry("mine/a")
    assert source.local(Entry("mine/a")) is None and not source.keeps_hdf5


# The package's own __init__ is left out: this is about these modules.
IMPORTS = """
import sys, types
package = types.ModuleType("stratdiff")
package.__path__ = sys.argv[1:]
sys.modules["stratdiff"] = package
for name in ("mujoco", "h5py", "minari", "matplotlib", "fcntl"):
    sys.modules[name] = None  # importing it fails
import stratdiff.data.dataset, stratdiff.files, stratdiff.data.tools.recorder, stratdiff.tasks
from stratdiff.data import sources
assert len(sources.entries()) > 200
"""


def test_what_is_imported_without_need():
    subprocess.run([sys.executable, "-c", IMPORTS, *stratdiff.__path__], check=True)
