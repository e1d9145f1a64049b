"""The whole online loop, measured in a real run: steps a second and where their time goes.

python -m benchmarks.loop '{"base": "iql", "score": "none"}' 1500
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ENV = "HalfCheetah-v4"


def measure(steps: int, **options: Any) -> dict[str, Any]:
    """`steps` environment steps of a run in a process of its own, without pre-training."""
    command = [sys.executable, "-m", "benchmarks.loop", json.dumps(options), str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(steps: int, **options: Any) -> dict[str, Any]:
    """As `measure`, in this process."""
    import stratdiff
    from benchmarks.ours import made_up
    from stratdiff.sinks.progress import Reporter

    config = stratdiff.make_config(
        "paper",
        **{
            "env": ENV,
            "offline_steps": 0,
            "behaviour_steps": 0,
            "energy_steps": 0,
            "online_steps": steps,
            "online_warmup": 100,
            "eval_episodes": 1,
            "eval_interval": 10**9,
            "log_interval": 500,
            "checkpoint_seconds": 1e9,
        }
        | options,
    )
    with tempfile.TemporaryDirectory() as folder:
        # Few rows: drawing their support actions would take longer than what is measured.
        data = made_up(200, horizon=100)
        result = stratdiff.train(config, Path(folder) / "run", data, Reporter(quiet=True))
    spent = dict(result.summary["online_seconds"])
    compile_seconds = spent.pop("compile")
    total = sum(spent.values())
    return {
        "steps_per_second": (steps - 1) / total,
        "share": {part: seconds / total for part, seconds in spent.items()},
        "compile_seconds": compile_seconds,
    }


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[2]), **json.loads(sys.argv[1]))))
