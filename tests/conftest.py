"""Every function of the package is shape- and type-checked while the tests run."""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little. Processes that a test starts have the usual flags.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

from jaxtyping import install_import_hook

install_import_hook("stratdiff", "beartype.beartype")

import pytest

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

TINY = {
    "preset": "demo",
    "seeds": (0,),
    "env": pointmass.ENV,
    "batch_size": 16,
    "offline_steps": 60,
    "behaviour_steps": 60,
    "energy_steps": 40,
    "online_steps": 120,
    "online_warmup": 20,
    "log_interval": 20,
    "offline_eval_interval": 40,
    "eval_interval": 40,
    "eval_episodes": 2,
    "checkpoint_seconds": 0.0,
    "iql": {"actor_hidden": [8, 8], "critic_hidden": [8, 8]},
    "calql": {"actor_hidden": [8, 8], "critic_hidden": [8, 8], "sampled_actions": 3},
    "sac": {"actor_hidden": [8, 8], "critic_hidden": [8, 8]},
    "behaviour": {"widths": [16, 8], "support_actions": 4, "batch_size": 16, "solver_steps": 4},
    "energy": {"hidden": [8, 8], "batch_size": 16},
}


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clumsy.hdf5"
    hdf5.write(path, pointmass.make_arrays(episodes=20), pointmass.ENV)
    return path


@pytest.fixture(scope="session")
def small_run(data_file, tmp_path_factory):
    """A whole run of `TINY` that keeps its policies; copy its directory before changing it."""
    config = make_config(**(TINY | {"dataset": str(data_file), "save_policies": True}))
    out = tmp_path_factory.mktemp("run") / "run"
    return stratdiff.train(config, out, reporter=runs.QUIET)


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """Where processes that tests start share their compiled programs."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"


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
    return TINY


@pytest.fixture
def tiny(data_file):
    """A config of seconds; options as for `make_config`."""

    def build(**options):
        return make_config(**(TINY | {"dataset": str(data_file)} | options))

    return build
