"""Peak memory of training on a large data set: `python -m benchmarks.memory ROWS`."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

OBS, ACT, EPISODE = 17, 6, 1000
ARRAYS = {"observations": (OBS,), "actions": (ACT,), "rewards": (), "terminals": (), "timeouts": ()}
SMALL = 10_000


def write(path: Path, rows: int) -> None:
    """A D4RL-format file of made-up rows, float32, episodes of 1000 steps."""
    import h5py

    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["env_id"] = "HalfCheetah-v4"
        for key, shape in ARRAYS.items():
            file.create_dataset(key, (rows, *shape), np.float32)
        for first in range(0, rows, 100 * EPISODE):
            n = min(100 * EPISODE, rows - first)
            part = slice(first, first + n)
            file["observations"][part] = rng.normal(2, 3, (n, OBS))
            file["actions"][part] = rng.uniform(-1, 1, (n, ACT))
            file["rewards"][part] = rng.normal(size=n)
            file["terminals"][part] = 0  # values that are never written are not in the file
            file["timeouts"][part] = np.arange(first, first + n) % EPISODE == EPISODE - 1


def train(path: str, out: str) -> dict[str, float]:
    """Train plain IQL for a few hundred updates; the peak memory of this process, in bytes."""
    import stratdiff
    from stratdiff.sinks.progress import Reporter

    config = stratdiff.make_config(
        dataset=path,
        score="none",
        offline_steps=300,
        online_steps=10,
        eval_episodes=1,
        log_interval=100,
    )
    stratdiff.train(config, out, reporter=Reporter(quiet=True))
    # Not getrusage's ru_maxrss: a process starts with that of the one that started it.
    status = Path("/proc/self/status").read_text().split()
    return {"peak": int(status[status.index("VmHWM:") + 1]) * 1024}


def peak(rows: int) -> float:
    """Peak resident memory, in bytes, of a process that trains on so many rows."""
    # On disk, not in /tmp: that may be memory.
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        path = Path(folder) / "rows.hdf5"
        write(path, rows)
        command = [sys.executable, "-m", "benchmarks.memory", "--train", str(path), f"{folder}/run"]
        run = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        return json.loads(run.stdout.splitlines()[-1])["peak"]


def measure(rows: int) -> dict[str, float]:
    """Peak memory on `rows` rows and on 10 000, against the size of the arrays, in bytes.

    `ratio` leaves out what Python, JAX and MuJoCo take with any set, `ratio_with_fixed` does not.
    """
    arrays = rows * 4 * (OBS + ACT + 3)
    fixed, whole = peak(SMALL), peak(rows)
    return {
        "rows": rows,
        "arrays": arrays,
        "fixed": fixed,
        "peak": whole,
        "ratio": (whole - fixed) / arrays,
        "ratio_with_fixed": whole / arrays,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="?", type=int, default=10_000_000)
    parser.add_argument("--train", nargs=2, metavar=("FILE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    result = train(*arguments.train) if arguments.train else measure(arguments.rows)
    print(json.dumps(result, indent=None if arguments.train else 2))
