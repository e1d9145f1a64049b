"""A large set is in memory once: read, checked, measured and handed to the device in place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stratdiff.cpu import aligned_empty
from stratdiff.data.dataset import BLOCK, from_arrays, validate
from stratdiff.errors import UserError

ROWS = 2_000_000
LIMIT = 1.3

PREPARE = """
import json, sys
from pathlib import Path

import jax

from stratdiff.config import make_config
from stratdiff.data.sources import load_dataset
from stratdiff.tasks import find_task
from stratdiff.data.device import to_device
from stratdiff.training.setup import make_setup, reward_scale


def memory(key):
    status = Path("/proc/self/status").read_text().split()
    return 1024 * int(status[status.index(key) + 1])


def prepare(path):
    config = make_config(dataset=path, score="none")
    dataset = load_dataset(path)
    setup, units = make_setup(config, find_task(dataset.env_id), reward_scale(config, dataset))
    data = to_device(dataset, units.scale, units.shift, setup.algorithm.agent.discount, False)
    jax.block_until_ready(data)
    dataset.episodes(), dataset.fingerprint
    shared = ("obs", "observations"), ("action", "actions"), ("rows", "transitions")
    return [
        getattr(data, ours).unsafe_buffer_pointer() == getattr(dataset, theirs).ctypes.data
        for ours, theirs in shared
    ]


small, large = sys.argv[1:]
prepare(small)
before = memory("VmRSS:")
in_place = prepare(large)
print(json.dumps({"grown": memory("VmHWM:") - before, "in_place": in_place}))
"""


@pytest.mark.slow
def test_a_large_set_is_in_memory_once(tmp_path):
    """Without the training itself: what that takes does not depend on the rows, but varies."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from Linux's /proc")
    root = Path(__file__).parents[2]
    sizes = {"small": 10_000, "large": ROWS}
    for name, rows in sizes.items():
        command = (
            "import sys; from pathlib import Path; from benchmarks.memory import write; "
            f"write(Path(sys.argv[1]), {rows})"
        )
        path = str(tmp_path / f"{name}.hdf5")
        subprocess.run([sys.executable, "-c", command, path], check=True, cwd=root)
    paths = [str(tmp_path / f"{name}.hdf5") for name in sizes]
    run = subprocess.run(
        [sys.executable, "-c", PREPARE, *paths],
        check=True,
        capture_output=True,
        text=True,
        cwd=root,
        # Freed arrays go back to the system at once, as those of a larger set do of themselves.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
    )
    found = json.loads(run.stdout)
    assert found["in_place"] == [True, True, True]
    ratio = found["grown"] / (ROWS * 4 * (17 + 6 + 3))
    assert ratio <= LIMIT, ratio


def make_rows(rows):
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(100, 0.1, (rows, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": np.zeros(rows, np.float32),
        "timeouts": (np.arange(rows) % 1000 == 999).astype(np.float32),
    }


@pytest.mark.parametrize("rows", [BLOCK, 2 * BLOCK + 1000])
def test_normalizer_over_blocks_equals_that_of_all_rows(rows):
    dataset = from_arrays("made up", make_rows(rows))
    states = dataset.observations[dataset.transitions].astype(np.float64)
    mean, std = dataset.normalizer()
    np.testing.assert_allclose(mean, states.mean(0), rtol=1e-7)
    np.testing.assert_allclose(std, states.std(0), rtol=1e-7)


def test_bad_values_are_counted_in_all_blocks():
    dataset = from_arrays("made up", make_rows(3 * BLOCK))
    dataset.actions[BLOCK + 5, 1] = -1.5
    dataset.actions[2 * BLOCK + 7] = 2
    with pytest.raises(UserError, match=rf"3 action values .* -1.5 at index \({BLOCK + 5}, 1\)"):
        validate(dataset)


@pytest.mark.parametrize("shape", [(0,), (7,), (5, 3), (0, 3)])
def test_aligned(shape):
    array = aligned_empty(shape, np.float32)
    assert array.shape == shape and array.dtype == np.float32
    assert array.ctypes.data % 64 == 0 or array.size == 0
