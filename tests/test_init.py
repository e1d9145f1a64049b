"""The public names, imported when they are used, and a quick, light import."""

import json
import subprocess
import sys

import pytest
import runs

import stratdiff

# Each takes a while to load, or is not there on every system.
HEAVY = ("mujoco", "h5py", "matplotlib", "jax", "equinox", "optax", "orbax", "scipy")


def fresh(code, *flags):
    """What a fresh process says that imports the package from here."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        env={"PYTHONPATH": runs.SRC, "PATH": "", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_is_there():
    for name in stratdiff.__all__:
        assert getattr(stratdiff, name) is not None
    assert len(set(stratdiff.__all__)) == len(stratdiff.__all__) > 12
    assert stratdiff.Session.__name__ == "Session"
    assert callable(stratdiff.train) and stratdiff.train.__module__ == "stratdiff.training.loop"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'stratdiff' has no attribute 'trian'"):
        stratdiff.trian  # noqa: B018
    with pytest.raises(ImportError):
        from stratdiff import nothing  # noqa: F401


@pytest.mark.parametrize(
    "code",
    ["import stratdiff", "from stratdiff.cli import main; main(['--help'])"],
)
def test_importing_is_light_and_quick(code):
    report = "import sys, time, json; print(); print(json.dumps([time.process_time(), "
    report += f"[name for name in {HEAVY!r} if name in sys.modules]]))"
    # With the installed packages' own compiled files; the processor's time, as others work here.
    seconds, loaded = json.loads(fresh(f"{code}; {report}").splitlines()[-1])
    assert loaded == []
    assert seconds < 1.0


def test_names_can_be_imported_in_any_order_and_without_fcntl():
    """As on Windows, which has none; locks are taken through filelock."""
    code = "import sys; sys.modules['fcntl'] = None; from stratdiff import Result, Policy, train; "
    names = [name for name in stratdiff.__all__ if name != "__version__"]
    fresh(code + f"import stratdiff; [getattr(stratdiff, name) for name in {names!r}]")
