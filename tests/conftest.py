"""Every function of the package is shape- and type-checked while the tests run."""

import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little. Processes that a test starts have the usual flags.
_flags = ["--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):  # later ones refuse the first of these
    _flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_llvm_disable_expensive_passes=true"]
os.environ.setdefault("XLA_FLAGS", " ".join(_flags))
# The workers of a run share what they compile.
if "PYTEST_XDIST_TESTRUNUID" in os.environ:
    _compiled = f"stratdiff-tests-{os.environ['PYTEST_XDIST_TESTRUNUID']}"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(tempfile.gettempdir(), _compiled)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from jaxtyping import install_import_hook

install_import_hook("stratdiff", "beartype.beartype")

import pytest
from filelock import FileLock

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))

import pointmass
import runs

import stratdiff
from stratdiff import registry
from stratdiff.config import make_config
from stratdiff.data import hdf5

# Tests name their own environments in configs and files.
registry.trust("*")


def pytest_sessionfinish(session):
    """The last one out, the process that started the workers, removes what they compiled."""
    run = getattr(session.config, "option", None)
    if getattr(run, "testrunuid", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        folder = Path(tempfile.gettempdir(), f"stratdiff-tests-{run.testrunuid}")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def common(tmp_path_factory):
    """A folder that the workers share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def data_file(common):
    path = common / "clumsy.hdf5"
    with FileLock(common / "data.lock"):
        if not path.exists():
            hdf5.write(path, pointmass.make_arrays(episodes=20), pointmass.ENV)
    return path


@pytest.fixture(scope="session")
def small_run(data_file, common):
    """A whole run of `runs.TINY` that keeps its policies; copy its directory before changing it."""
    config = make_config(**(runs.TINY | {"dataset": str(data_file), "save_policies": True}))
    out = common / "run"
    with FileLock(common / "run.lock"):
        if not out.exists():
            return stratdiff.train(config, out, reporter=runs.QUIET)
    policy = stratdiff.Policy.load(out / "policy.safetensors")
    return stratdiff.Result(
        out, stratdiff.read_config(out / "config.json"), runs.summary(out), policy
    )


@pytest.fixture(scope="session")
def programs(common):
    """Where processes that tests start share their compiled programs."""
    return common / "programs"


@pytest.fixture
def untrusting(monkeypatch):
    """Nothing is trusted, as in a fresh process."""
    monkeypatch.setattr(registry, "_trusted", set())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder for made data sets."""
    monkeypatch.setenv("STRATDIFF_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def tiny_options():
    return runs.TINY


@pytest.fixture
def tiny(data_file):
    """A config of seconds; options as for `make_config`."""

    def build(**options):
        return make_config(**(runs.TINY | {"dataset": str(data_file)} | options))

    return build
