"""The bits of tiny runs of every kind, against those recorded in `digests.json` beside this file.

`python scripts/digests.py` runs them all and compares; `--record` writes the file anew, for a
change that is meant to change results. On the kind of machine and versions that the file names,
weights and metrics must be equal to the bit; elsewhere metrics must agree to 1 % (float32 sums
round differently), which still finds a change of the method.
"""

import argparse
import contextlib
import hashlib
import json
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

FILE = Path(__file__).with_suffix(".json")
LENGTHS = {
    "preset": "demo",
    "batch_size": 32,
    "offline_steps": 60,
    "behaviour_steps": 40,
    "energy_steps": 30,
    "online_steps": 90,
    "online_warmup": 20,
    "log_interval": 15,
    "offline_eval_interval": 60,
    "eval_interval": 90,
    "eval_episodes": 1,
    "checkpoint_seconds": 0.0,
    "iql": {"actor_hidden": [32, 32], "critic_hidden": [32, 32]},
    "calql": {"actor_hidden": [32, 32], "critic_hidden": [32, 32], "sampled_actions": 4},
    "rebrac": {"actor_hidden": [32, 32], "critic_hidden": [32, 32]},
    "sac": {"actor_hidden": [32, 32], "critic_hidden": [32, 32]},
    "behaviour": {
        "widths": [32, 16],
        "support_actions": 4,
        "batch_size": 32,
        "solver_steps": 4,
        "precision": "bfloat16",
    },
    "energy": {"hidden": [32, 32], "batch_size": 32},
}
HOPPER, ANTMAZE = "stratdiff/hopper-medium-replay", "stratdiff/antmaze-umaze"
# (set, base, score, further options); `cut`: the run is cut off after so many log points.
EXCHANGE = {"split": "exchange", "guidance_scale": "auto", "seeds": [0, 4]}
RUNS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "iql-none": (HOPPER, "iql", "none", {}),
    "iql-random": (HOPPER, "iql", "random", {}),
    "iql-guided": (HOPPER, "iql", "guided", {}),
    "iql-support": (HOPPER, "iql", "support", {}),
    "iql-w0": (HOPPER, "iql", "guided", {"guidance_scale": 0.0}),
    "iql-support-w0": (HOPPER, "iql", "support", {"guidance_scale": 0.0, "rho": 0.3}),
    "iql-guided-rho-0.3": (HOPPER, "iql", "guided", {"rho": 0.3}),
    "iql-guided-2-seeds": (HOPPER, "iql", "guided", {"seeds": [3, 5]}),
    "iql-support-utd-2": (HOPPER, "iql", "support", {"utd": 2}),
    "iql-none-utd-2-seeds-2": (HOPPER, "iql", "none", {"utd": 2, "seeds": [0, 1]}),
    "calql-none": (HOPPER, "calql", "none", {}),
    "calql-random": (HOPPER, "calql", "random", {}),
    "calql-guided": (HOPPER, "calql", "guided", {}),
    "calql-support-2-seeds": (HOPPER, "calql", "support", {"seeds": [1, 2]}),
    "calql-support-exchange": (HOPPER, "calql", "support", EXCHANGE),
    "rebrac-none": (HOPPER, "rebrac", "none", {}),
    "rebrac-likelihood": (HOPPER, "rebrac", "likelihood", {}),
    "sac-none": (HOPPER, "sac", "none", {}),
    "sac-rlpd-utd-2": (
        *(HOPPER, "sac", "none"),
        {"utd": 2, "offline_steps": 0, "sac": {"critics": 5, "layer_norm": True}},
    ),
    "antmaze-iql-guided": (ANTMAZE, "iql", "guided", {}),
    "antmaze-calql-support": (ANTMAZE, "calql", "support", {}),
    "antmaze-calql-none": (ANTMAZE, "calql", "none", {}),
    "cut-iql-guided-2-seeds": (HOPPER, "iql", "guided", {"seeds": [3, 5], "cut": (5, 11)}),
    "cut-calql-guided": (HOPPER, "calql", "guided", {"cut": (2, 12)}),
}


class _Cut(Exception):
    """Stands for the end of a run's process."""


def machine() -> dict[str, str]:
    """What decides the bits: the processor and the versions."""
    names = ("jax", "jaxlib", "numpy", "equinox", "optax", "gymnasium", "mujoco")
    model = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), ""
    )
    flags = next((line for line in _cpu_lines() if line.startswith("flags")), "")
    vectors = sorted(f for f in flags.split() if f.startswith(("avx", "amx", "fma")))
    return {
        "processor": f"{platform.machine()} {model} {' '.join(vectors)}",
        **{name: metadata.version(name) for name in names},
    }


def _cpu_lines() -> list[str]:
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text().splitlines()
    return []


def weights(directory: Path) -> list[str]:
    """Shape and hash of every trained array of the newest checkpoint, sorted: names may change."""
    import orbax.checkpoint as ocp

    manager = ocp.CheckpointManager(
        (directory / "checkpoints").absolute(), item_names=("state", "meta")
    )
    found = manager.restore(
        manager.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore())
    )["state"]
    manager.close()
    skipped = ("opt", "replay", "seed", "updates")
    return sorted(
        f"{list(array.shape)} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"
        for name, array in found.items()
        if not any(word in name for word in skipped) and np.asarray(array).ndim > 0
    )


def run(name: str, data: dict[str, str], folder: Path) -> dict[str, Any]:
    """The weights' hashes and the metrics of one run."""
    import jax.numpy as jnp

    import stratdiff
    from stratdiff import cpu
    from stratdiff.config import make_config
    from stratdiff.sinks.jsonl import read_metrics
    from stratdiff.sinks.progress import Reporter

    dataset, base, score, more = RUNS[name]
    options = dict(more)
    cuts = options.pop("cut", ())
    kind = "antmaze" if dataset == ANTMAZE else "locomotion"
    merged: dict[str, Any] = LENGTHS | {"dataset": data[dataset], "recipe": kind}
    for key, value in options.items():
        merged[key] = merged[key] | value if isinstance(value, dict) else value
    config = make_config(base=base, score=score, **merged)
    out = folder / name

    class Reporting(Reporter):
        """Cuts the run off after so many log points."""

        points, limit = 0, 0

        def update(self, done: int, note: str = "") -> None:
            self.points += 1
            if self.limit and self.points >= self.limit:
                raise _Cut

    def go(limit: int) -> None:
        reporter = Reporting(quiet=True)
        reporter.limit = limit
        if (out / "config.json").exists():
            stratdiff.resume(out, reporter=reporter)
        else:
            stratdiff.train(config, out, reporter=reporter)

    # The same on every processor, whether it has bfloat16 or not.
    with mock.patch.object(cpu, "low_precision", lambda: jnp.bfloat16):
        for limit in cuts:
            with contextlib.suppress(_Cut):
                go(limit)
        go(0)
    records = read_metrics(out / "metrics.jsonl")
    for record in records:
        del record["time"]
    return {"weights": weights(out), "metrics": records}


def data_sets(folder: Path) -> dict[str, str]:
    """Small made sets; they are made whole by chunks, so small ones are cheap."""
    from stratdiff.data.made import store

    return {name: str(store.make(name, 4000, 0, None, 2)) for name in (HOPPER, ANTMAZE)}


def differences(found: dict[str, Any], recorded: dict[str, Any], exact: bool) -> str:
    """How a run differs from the recorded one; '' where it does not."""
    if exact:
        missing = [w for w in recorded["weights"] if w not in found["weights"]]
        if missing:
            return f"{len(missing)} of {len(recorded['weights'])} arrays differ: {missing[0][:40]}"
    for a, b in zip(found["metrics"], recorded["metrics"], strict=True):
        for key in b:
            if exact and a.get(key) != b[key]:
                return f"{b['phase']} {b['step']}: {key} is {a.get(key)}, was {b[key]}"
            if not exact and isinstance(b[key], list) and not key.startswith(("score", "return")):
                x, y = (np.array(v, float) for v in (a[key], b[key]))
                if not np.allclose(x, y, rtol=1e-2, atol=1e-2, equal_nan=True):
                    return f"{b['phase']} {b['step']}: {key} is {a[key]}, was {b[key]}"
    return ""


def main() -> int:
    """Run, compare or record; 1 where a run differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    parser.add_argument(
        "--only", default="", help="runs whose name holds this; others stay recorded"
    )
    options = parser.parse_args()
    names = [name for name in RUNS if options.only in name]
    known = {} if options.record else json.loads(FILE.read_text())
    exact = known.get("machine") == machine()
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = data_sets(Path(folder))
        for name in names:
            runs[name] = run(name, data, Path(folder))
            wrong = differences(runs[name], known["runs"][name], exact) if known else ""
            print(f"{name:<28} {wrong or ('recorded' if not known else 'equal')}", flush=True)
            known and wrong and runs.update({name: None})
    if options.record:
        others = json.loads(FILE.read_text())["runs"] if options.only else {}
        FILE.write_text(json.dumps({"machine": machine(), "runs": others | runs}) + "\n")
        return 0
    print("to the bit" if exact else "to 1 %: another machine or other versions than recorded")
    return int(any(found is None for found in runs.values()))


if __name__ == "__main__":
    sys.exit(main())
