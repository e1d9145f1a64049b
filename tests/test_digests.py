"""scripts/digests.py: tiny runs of every kind against those recorded before the rebuild."""

import copy
import importlib.util
import json
import os
import subprocess
import sys

import pytest
import runs

SCRIPT = runs.TESTS.parent / "scripts" / "digests.py"


@pytest.fixture(scope="module")
def digests():
    spec = importlib.util.spec_from_file_location("digests", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded(digests):
    return json.loads(digests.FILE.read_text())["runs"]


def test_every_kind_of_run_is_recorded(digests, recorded):
    assert recorded.keys() == digests.RUNS.keys()
    assert len(recorded) >= 16
    for name, run in recorded.items():
        assert len(run["weights"]) > 5 and len(run["metrics"]) > 5, name


@pytest.mark.parametrize("name", ["iql-guided", "calql-support-2-seeds", "sac-none"])
def test_a_changed_weight_or_metric_is_found(digests, recorded, name):
    run = recorded[name]
    for exact in (True, False):
        assert digests.differences(copy.deepcopy(run), run, exact) == ""

    weight = copy.deepcopy(run)
    shape, digest = weight["weights"][3].rsplit(" ", 1)
    weight["weights"][3] = f"{shape} {digest[::-1]}"
    assert "1 of" in digests.differences(weight, run, True)

    # The last digit that is written, and one percent and more elsewhere.
    for factor, exact in ((1 + 1e-5, True), (1.05, False)):
        for i, key in ((0, "critic_loss"), (-1, "q_mean"), (-1, "critic_loss")):
            metric = copy.deepcopy(run)
            values = metric["metrics"][i][key]
            values[-1] = values[-1] * factor + 0.03 * (not exact)
            found = digests.differences(metric, run, exact)
            assert key in found and f" {run['metrics'][i]['step']}:" in found
            assert exact or digests.differences(metric, run, True)

    missing = copy.deepcopy(run)
    del missing["metrics"][-1]["critic_loss"]
    assert "critic_loss" in digests.differences(missing, run, True)
    shorter = copy.deepcopy(run)
    shorter["metrics"].pop()
    with pytest.raises(ValueError, match="longer"):
        digests.differences(shorter, run, True)


@pytest.mark.slow
def test_the_recorded_runs_are_repeated():
    """With the compiler flags that users have."""
    env = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": runs.SRC}
    done = subprocess.run([sys.executable, SCRIPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal") >= 16
